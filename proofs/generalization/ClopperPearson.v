(* The exact binomial tail bound on a risk (Clopper and Pearson 1934; Langford 2005).

   A fixed classifier errs on an example of the distribution D with probability [risk]. Stated here: the number of
   errors in n i.i.d. examples is binomial; its tail P[errors <= k] falls in the risk; so if the risk is at least p, as
   few as k errors have at most the probability sum_{i<=k} C(n,i) p^i (1-p)^(n-i); a bound u(k) at which this tail is
   at most delta lies below the risk with probability at most delta ([clopper_pearson_coverage]). *)

Require Import Reals Lra Lia List ZArith.
From LeanMnist.generalization Require Import Distribution.
Import ListNotations.
Open Scope R_scope.

(* ---------- the binomial distribution's tail ---------- *)

(* Binomial coefficients by Pascal's rule; 0 for k > n. *)
Fixpoint choose (n k : nat) : Z :=
  match n, k with
  | _, O => 1%Z
  | O, S _ => 0%Z
  | S m, S j => (choose m j + choose m (S j))%Z
  end.

(* P[exactly i errors in n] = C(n, i) p^i (1 - p)^(n - i) *)
Definition binomial_term (n : nat) (p : R) (i : nat) : R := IZR (choose n i) * p ^ i * (1 - p) ^ (n - i).

(* P[at most k errors in n] = sum_{i <= k} C(n, i) p^i (1 - p)^(n - i) *)
Definition binomial_tail (n k : nat) (p : R) : R := sum_f_R0 (binomial_term n p) k.

Lemma choose_0 n : choose n 0 = 1%Z.
Proof. destruct n; reflexivity. Qed.

Lemma choose_nonneg n k : (0 <= choose n k)%Z.
Proof.
  revert k; induction n; intros [|k]; simpl; try lia.
  specialize (IHn k) as A. specialize (IHn (S k)). lia.
Qed.

Lemma choose_beyond n k : (n < k)%nat -> choose n k = 0%Z.
Proof. revert k; induction n; intros [|k] H; try lia; [easy|]. simpl. rewrite !IHn by lia. reflexivity. Qed.

(* From one binomial coefficient to the next: (k + 1) C(n, k + 1) = (n - k) C(n, k). *)
Lemma choose_next n k : (Z.of_nat (S k) * choose n (S k) = (Z.of_nat n - Z.of_nat k) * choose n k)%Z.
Proof.
  revert k; induction n; intros k.
  - destruct k; [reflexivity | simpl; lia].
  - destruct k.
    + pose proof (IHn 0%nat) as H. rewrite choose_0 in *. simpl choose. rewrite choose_0. lia.
    + pose proof (IHn k) as H. pose proof (IHn (S k)) as H'. simpl choose. lia.
Qed.

Lemma binomial_term_nonneg n p i : 0 <= p <= 1 -> 0 <= binomial_term n p i.
Proof.
  intros Hp. unfold binomial_term. apply Rmult_le_pos; [apply Rmult_le_pos|]; try (apply pow_le; lra).
  apply IZR_le, choose_nonneg.
Qed.

(* P[fewer than k errors in n], which conditions on one trial more simply. *)
Fixpoint binomial_below (n k : nat) (p : R) : R :=
  match k with O => 0 | S j => binomial_below n j p + binomial_term n p j end.

Lemma binomial_tail_below n k p : binomial_tail n k p = binomial_below n (S k) p.
Proof.
  unfold binomial_tail. induction k; [simpl; ring|]. rewrite tech5, IHk. reflexivity.
Qed.

Lemma binomial_term_S_0 n p : binomial_term (S n) p 0 = (1 - p) * binomial_term n p 0.
Proof. unfold binomial_term. rewrite !choose_0, !Nat.sub_0_r. simpl. ring. Qed.

Lemma binomial_term_S_S n p i :
  binomial_term (S n) p (S i) = p * binomial_term n p i + (1 - p) * binomial_term n p (S i).
Proof.
  unfold binomial_term. simpl choose. rewrite plus_IZR. destruct (Nat.le_gt_cases (S i) n) as [H|H].
  - replace (S n - S i)%nat with (S (n - S i)) by lia. replace (n - i)%nat with (S (n - S i)) by lia. simpl. ring.
  - rewrite (choose_beyond n (S i)) by lia. replace (S n - S i)%nat with (n - i)%nat by lia. simpl. ring.
Qed.

Lemma binomial_below_S_S n k p :
  binomial_below (S n) (S k) p = p * binomial_below n k p + (1 - p) * binomial_below n (S k) p.
Proof.
  induction k.
  - cbn [binomial_below]. rewrite binomial_term_S_0. ring.
  - change (binomial_below (S n) (S (S k)) p) with (binomial_below (S n) (S k) p + binomial_term (S n) p (S k)).
    rewrite IHk, binomial_term_S_S. cbn [binomial_below]. ring.
Qed.

Lemma binomial_below_mono_k n k p : 0 <= p <= 1 -> binomial_below n k p <= binomial_below n (S k) p.
Proof. intros Hp. simpl. pose proof (binomial_term_nonneg n p k Hp). lra. Qed.

Lemma binomial_below_0_S k p : binomial_below 0 (S k) p = 1.
Proof.
  induction k; [unfold binomial_below, binomial_term; simpl; ring|].
  change (binomial_below 0 (S (S k)) p) with (binomial_below 0 (S k) p + binomial_term 0 p (S k)).
  rewrite IHk. unfold binomial_term. rewrite choose_beyond by lia. ring.
Qed.

Lemma binomial_below_decreasing n k p q : 0 <= p -> p <= q -> q <= 1 -> binomial_below n k q <= binomial_below n k p.
Proof.
  intros H0 H1 H2. revert k. induction n; intros [|k]; try (simpl; lra); [rewrite !binomial_below_0_S; lra|].
  rewrite !binomial_below_S_S.
  pose proof (IHn k) as A. pose proof (IHn (S k)) as B.
  assert (Hq : 0 <= q <= 1) by lra. pose proof (binomial_below_mono_k n k q Hq) as C.
  apply Rle_trans with (p * binomial_below n k q + (1 - p) * binomial_below n (S k) q).
  - assert (0 <= (q - p) * (binomial_below n (S k) q - binomial_below n k q)) by (apply Rmult_le_pos; lra). lra.
  - apply Rplus_le_compat; apply Rmult_le_compat_l; lra.
Qed.

(* The greater the risk, the less probable is it that at most k errors are made. *)
Theorem binomial_tail_decreasing n k p q : 0 <= p -> p <= q -> q <= 1 -> binomial_tail n k q <= binomial_tail n k p.
Proof. rewrite !binomial_tail_below. apply binomial_below_decreasing. Qed.

(* ---------- errors of a fixed classifier on i.i.d. examples ---------- *)

Section Errors.
  Context {A : Type} (D : distribution A) (wrong : A -> bool).

  Definition zero_one_loss (a : A) : R := if wrong a then 1 else 0.

  (* The probability that the classifier is wrong on an example drawn from D. *)
  Definition risk : R := E D zero_one_loss.

  (* The number of examples that it is wrong on. *)
  Fixpoint errors (sample : list A) : nat :=
    match sample with [] => O | a :: rest => if wrong a then S (errors rest) else errors rest end.

  Lemma zero_one_loss_range a : 0 <= zero_one_loss a <= 1.
  Proof. unfold zero_one_loss; destruct (wrong a); lra. Qed.

  Lemma risk_range : 0 <= risk <= 1.
  Proof. apply E_range, zero_one_loss_range. Qed.

  Theorem risk_is_probability : risk = Prob D (fun a => wrong a = true).
  Proof.
    apply E_ext. intros a. unfold zero_one_loss.
    destruct (wrong a); [rewrite indicator_true | rewrite indicator_false]; easy.
  Qed.

  Lemma errors_le_length sample : (errors sample <= length sample)%nat.
  Proof. induction sample as [|a rest IH]; simpl; [lia|]. destruct (wrong a); lia. Qed.

  Lemma errors_sum sample : INR (errors sample) = sum_over zero_one_loss sample.
  Proof.
    induction sample as [|a rest IH]; [reflexivity|]. rewrite sum_over_cons, <- IH. unfold zero_one_loss. simpl errors.
    destruct (wrong a); [rewrite S_INR|]; ring.
  Qed.

  Lemma prob_errors_below n k : Prob (draws D n) (fun sample => (errors sample < k)%nat) = binomial_below n k risk.
  Proof.
    revert k. induction n; intros k.
    - unfold Prob. rewrite E_draws_0. simpl errors. destruct k.
      + rewrite indicator_false by lia. reflexivity.
      + rewrite indicator_true by lia. symmetry. apply binomial_below_0_S.
    - destruct k.
      { rewrite Prob_impossible by (intros; lia). reflexivity. }
      unfold Prob. rewrite E_draws_S, binomial_below_S_S, <- !IHn.
      set (fewer := Prob (draws D n) (fun sample => (errors sample < k)%nat)).
      set (more := Prob (draws D n) (fun sample => (errors sample < S k)%nat)).
      rewrite (E_ext D _ (fun a => fewer * zero_one_loss a + more * (1 - zero_one_loss a))).
      + rewrite E_plus, !E_scal, E_complement. fold risk. ring.
      + intros a. unfold zero_one_loss, fewer, more, Prob. simpl errors. destruct (wrong a).
        * rewrite (E_ext _ _ (fun sample => indicator (errors sample < k)%nat)); [ring|].
          intros sample. apply indicator_ext. lia.
        * ring.
  Qed.

  (* The number of errors in n draws is binomial. *)
  Theorem prob_errors_is_binomial_tail n k :
    Prob (draws D n) (fun sample => (errors sample <= k)%nat) = binomial_tail n k risk.
  Proof.
    rewrite binomial_tail_below, <- prob_errors_below. apply Prob_ext. intros sample. lia.
  Qed.

  (* If the risk is at least p, then as few as k errors in n draws have probability at most
     sum_{i<=k} C(n,i) p^i (1-p)^(n-i). So a count k at which that is at most delta refutes "the risk is at least p"
     but for a draw of probability delta. *)
  Theorem few_errors_improbable n k p : 0 <= p <= risk ->
    Prob (draws D n) (fun sample => (errors sample <= k)%nat) <= binomial_tail n k p.
  Proof.
    intros Hp. rewrite prob_errors_is_binomial_tail. pose proof risk_range. apply binomial_tail_decreasing; lra.
  Qed.
End Errors.

(* ---------- coverage ---------- *)

Section Coverage.
  Context {A : Type} (D : distribution A) (wrong : A -> bool).

  Lemma greatest_below (P : nat -> Prop) n : (forall k, {P k} + {~ P k}) ->
    (forall k, (k <= n)%nat -> ~ P k) \/ exists k, (k <= n)%nat /\ P k /\ forall j, (k < j <= n)%nat -> ~ P j.
  Proof.
    intros dec. induction n.
    - destruct (dec 0%nat) as [Y|N].
      + right. exists 0%nat. repeat split; auto. intros; lia.
      + left. intros k Hk. now replace k with 0%nat by lia.
    - destruct (dec (S n)) as [Y|N].
      + right. exists (S n). repeat split; auto. intros; lia.
      + destruct IHn as [None | (k & Hk & Pk & Gt)].
        * left. intros k Hk. destruct (Nat.eq_dec k (S n)) as [->|]; [exact N | apply None; lia].
        * right. exists k. repeat split; auto. intros j Hj.
          destruct (Nat.eq_dec j (S n)) as [->|]; [exact N | apply Gt; lia].
  Qed.

  (* Whatever the bound u(k), as long as the tail at u(k) is at most delta (or u(k) >= 1, which says nothing): the
     probability that the bound lies below the risk is at most delta. *)
  Theorem clopper_pearson_coverage n (u : nat -> R) delta : 0 <= delta -> (forall k, 0 <= u k) ->
    (forall k, (k <= n)%nat -> u k < 1 -> binomial_tail n k (u k) <= delta) ->
    Prob (draws D n) (fun sample => u (errors wrong sample) < risk D wrong) <= delta.
  Proof.
    intros Hdelta Hu Htail. pose proof (risk_range D wrong) as Hrisk.
    destruct (greatest_below (fun k => u k < risk D wrong) n) as [None | (k & Hk & Pk & Gt)].
    { intros k. apply Rlt_dec. }
    - rewrite Prob_impossible; [exact Hdelta|]. intros sample I. apply None.
      rewrite <- (draws_length D n sample I). apply errors_le_length.
    - apply Rle_trans with (Prob (draws D n) (fun sample => (errors wrong sample <= k)%nat)).
      + apply Prob_mono_on. intros sample I H.
        assert (errors wrong sample <= n)%nat by (rewrite <- (draws_length D n sample I); apply errors_le_length).
        destruct (Nat.le_gt_cases (errors wrong sample) k) as [|L]; [assumption|].
        exfalso. apply (Gt (errors wrong sample)); [lia | exact H].
      + apply Rle_trans with (binomial_tail n k (u k)); [|apply Htail; [exact Hk | lra]].
        apply few_errors_improbable. pose proof (Hu k). lra.
  Qed.
End Coverage.
