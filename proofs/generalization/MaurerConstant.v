(* Maurer's constant of the PAC-Bayes-kl bound, xi(m) <= 2 sqrt m for every m >= 1 (Maurer 2004, for m >= 8), and the
   bound that is printed with it.

   xi(m) = sum_k C(m,k) (k/m)^k (1 - k/m)^(m-k). By an identity of Abel's, sum_k C(n,k) (x + k)^k (y + n - k)^(n-k) =
   sum_j n!/(n-j)! (x + y + n)^(n-j), so xi(m) = sum_r p_r with p_r = (1 - 1/m) ... (1 - (r-1)/m). As sum_r r p_r = m
   and p_r <= 1, xi(m) <= (N + 1)/2 + m/N for every whole N, which is at most 2 sqrt m for N just above sqrt m. *)

Require Import Reals Lra Lia List ZArith.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers gradients.LinearAlgebra
  generalization.Distribution generalization.ClopperPearson generalization.BinomialKL
  generalization.Posteriors generalization.PacBayes.
Open Scope R_scope.

Lemma sum_first n (f : nat -> R) : sum (S n) f = f 0%nat + sum n (fun k => f (S k)).
Proof. induction n as [|n IH]; [simpl; real; ring|]. rewrite sum_S, IH, sum_S. ring. Qed.

Lemma constant_of_derivative (f : R -> R) a b : (forall x, is_derive f x 0) -> f a = f b.
Proof.
  intros D. destruct (Rtotal_order a b) as [L|[->|G]]; [|reflexivity|symmetry].
  - now apply (eq_is_derive f a b).
  - now apply (eq_is_derive f b a).
Qed.

Lemma is_derive_power x a n : is_derive (fun u => (u + a) ^ S n) x (INR (S n) * (x + a) ^ n).
Proof.
  replace (INR (S n) * (x + a) ^ n) with (INR (S n) * (1 + 0) * (x + a) ^ n) by ring.
  apply (is_derive_pow (fun u => u + a) (S n) x (1 + 0)).
  apply (derive_add (fun u => u) (fun _ => a)); [apply (is_derive_id (K := R_AbsRing))|].
  apply (is_derive_const (V := R_NormedModule)).
Qed.

Definition binomial (n k : nat) : R := IZR (choose n k).

Lemma binomial_S n k : binomial (S n) (S k) = binomial n k + binomial n (S k).
Proof. unfold binomial. simpl choose. apply plus_IZR. Qed.

Lemma binomial_absorbs n k : INR (S k) * binomial (S n) (S k) = INR (S n) * binomial n k.
Proof.
  unfold binomial. rewrite !INR_IZR_INZ, <- !mult_IZR. f_equal. pose proof (choose_next n k). simpl choose. lia.
Qed.

(* ---------- the n-th difference of x^n is n! ---------- *)

Fixpoint difference (n : nat) (f : R -> R) (x : R) : R :=
  match n with O => f x | S m => difference m f (x + 1) - difference m f x end.

Lemma difference_scal n c f x : difference n (fun u => c * f u) x = c * difference n f x.
Proof. revert x. induction n as [|n IH]; intros x; simpl; [reflexivity|]. rewrite !IH. ring. Qed.

Lemma difference_derivative n f f' x : (forall u, is_derive f u (f' u)) ->
  is_derive (difference n f) x (difference n f' x).
Proof.
  intros D. revert x. induction n as [|n IH]; intros x; [apply D|]. simpl.
  apply (derive_sub (fun u => difference n f (u + 1)) (difference n f)); [|apply IH].
  replace (difference n f' (x + 1)) with (1 * difference n f' (x + 1)) by ring.
  apply (is_derive_comp (difference n f) (fun u => u + 1)); [apply IH | auto_derive; [easy | ring]].
Qed.

Lemma difference_of_power n x : difference n (fun u => u ^ n) x = INR (fact n).
Proof.
  revert x. induction n as [|n IH]; intros x; [reflexivity|]. cbn [difference].
  assert (D : forall u, is_derive (difference n (fun u => u ^ S n)) u (INR (fact (S n)))).
  { intros u. rewrite fact_simpl, mult_INR, <- (IH u), <- difference_scal. apply difference_derivative.
    intros v. apply (is_derive_ext (fun u => (u + 0) ^ S n)); [intros; now rewrite Rplus_0_r|].
    rewrite <- (Rplus_0_r v) at 2. apply is_derive_power. }
  set (c := INR (fact (S n))) in *.
  assert (C := constant_of_derivative (fun u => difference n (fun u => u ^ S n) u - (0 + u * c)) (x + 1) x).
  cbv beta in C. enough (E : forall u, is_derive (fun u => difference n (fun u => u ^ S n) u - (0 + u * c)) u 0)
    by (specialize (C E); lra).
  intros u. apply (derive_to _ u (c - c)); [|ring].
  apply (derive_sub (difference n (fun u => u ^ S n)) (fun u => 0 + u * c)); [apply D | apply is_derive_line].
Qed.

Lemma difference_sum n f x :
  difference n f x = sum (S n) (fun k => binomial n k * (-1) ^ (n + k) * f (x + INR k)).
Proof.
  revert x. induction n as [|n IH]; intros x.
  - rewrite sum_S. unfold binomial. simpl. real. rewrite Rplus_0_r. ring.
  - cbn [difference]. rewrite !IH, (sum_first (S n)).
    rewrite (sum_ext (S n) (fun k => binomial (S n) (S k) * _ * _) (fun k =>
      binomial n k * (-1) ^ (n + k) * f (x + 1 + INR k) + binomial n (S k) * (-1) ^ (n + k) * f (x + INR (S k)))).
    2:{ intros k _. rewrite binomial_S, S_INR. replace (S n + S k)%nat with (S (S (n + k))) by lia.
        replace (x + (INR k + 1)) with (x + 1 + INR k) by ring. simpl. ring. }
    rewrite sum_plus, sum_S with (f := fun k => binomial n (S k) * _ * _), (sum_first n (fun k => _ * f (x + INR k))).
    replace (binomial n (S n)) with 0 by (unfold binomial; now rewrite choose_beyond by lia).
    replace (binomial (S n) 0) with 1 by reflexivity.
    replace (binomial n 0) with 1 by (unfold binomial; now rewrite choose_0).
    rewrite (sum_ext n (fun k => binomial n (S k) * (-1) ^ (n + S k) * f (x + INR (S k)))
      (fun k => -1 * (binomial n (S k) * (-1) ^ (n + k) * f (x + INR (S k))))).
    2:{ intros k _. replace (n + S k)%nat with (S (n + k)) by lia. simpl. ring. }
    rewrite sum_scal, !Nat.add_0_r. simpl pow. ring.
Qed.

(* ---------- Abel's identity ---------- *)

Definition abel (n : nat) (x y : R) : R :=
  sum (S n) (fun k => binomial n k * (x + INR k) ^ k * (y + INR (n - k)) ^ (n - k)).

Definition falling (n : nat) (s : R) : R :=
  sum (S n) (fun j => INR (fact n) / INR (fact (n - j)) * (s + INR n) ^ (n - j)).

Lemma abel_derivative n x y : is_derive (fun u => abel (S n) u y) x (INR (S n) * abel n (x + 1) y).
Proof.
  unfold abel. rewrite <- sum_scal.
  apply (is_derive_ext (fun u => binomial (S n) 0 * (y + INR (S n)) ^ S n + sum (S n) (fun k =>
    (binomial (S n) (S k) * (y + INR (n - k)) ^ (n - k)) * (u + INR (S k)) ^ S k))).
  { intros u. rewrite (sum_first (S n)), Nat.sub_0_r. in_reals. f_equal; [simpl; ring|]. apply sum_ext. intros k _.
    replace (S n - S k)%nat with (n - k)%nat by lia. ring. }
  rewrite <- (Rplus_0_l (sum (S n) _)).
  apply (derive_add (fun _ => _)); [apply (is_derive_const (V := R_NormedModule))|].
  apply is_derive_sum. intros k _.
  replace (INR (S n) * (binomial n k * (x + 1 + INR k) ^ k * (y + INR (n - k)) ^ (n - k)))
    with (binomial (S n) (S k) * (y + INR (n - k)) ^ (n - k) * (INR (S k) * (x + INR (S k)) ^ k)).
  - apply (derive_scale _ (fun u => (u + INR (S k)) ^ S k)), is_derive_power.
  - rewrite <- !Rmult_assoc, <- binomial_absorbs. replace (x + INR (S k)) with (x + 1 + INR k) by (rewrite S_INR; ring).
    ring.
Qed.

Lemma falling_derivative n s : is_derive (falling (S n)) s (INR (S n) * falling n (s + 1)).
Proof.
  unfold falling. rewrite <- sum_scal.
  apply (is_derive_ext (fun u => sum (S n) (fun j => INR (fact (S n)) / INR (fact (S (n - j)))
    * (u + INR (S n)) ^ S (n - j)) + INR (fact (S n)))).
  { intros u. rewrite (sum_S (S n)), Nat.sub_diag. in_reals. f_equal.
    - apply sum_ext. intros j J. now replace (S n - j)%nat with (S (n - j)) by lia.
    - simpl. field. }
  rewrite <- (Rplus_0_r (sum (S n) _)).
  apply (derive_add (fun u => sum (S n) _) (fun _ => _)); [|apply (is_derive_const (V := R_NormedModule))].
  apply is_derive_sum. intros j J.
  replace (INR (S n) * (INR (fact n) / INR (fact (n - j)) * (s + 1 + INR n) ^ (n - j)))
    with (INR (fact (S n)) / INR (fact (S (n - j))) * (INR (S (n - j)) * (s + INR (S n)) ^ (n - j))).
  - apply (derive_scale _ (fun u => (u + INR (S n)) ^ S (n - j))), is_derive_power.
  - replace (s + INR (S n)) with (s + 1 + INR n) by (rewrite S_INR; ring). rewrite !fact_simpl, !mult_INR.
    field. split; [apply INR_fact_neq_0 | apply not_0_INR; lia].
Qed.

Lemma abel_at_end n y : abel n (- y - INR n) y = INR (fact n).
Proof.
  rewrite <- (difference_of_power n (- y - INR n)), difference_sum. apply sum_ext. intros k K.
  replace (y + INR (n - k)) with (-1 * (- y - INR n + INR k)) by (rewrite minus_INR by lia; ring).
  set (x := - y - INR n + INR k). rewrite Rpow_mult_distr.
  replace ((-1) ^ (n + k)) with ((-1) ^ (n - k)).
  - replace (x ^ n) with (x ^ k * x ^ (n - k)) by (rewrite <- pow_add; f_equal; lia). ring.
  - replace (n + k)%nat with (n - k + 2 * k)%nat by lia. rewrite pow_add, pow_1_even. ring.
Qed.

Lemma falling_at_end n : falling n (- INR n) = INR (fact n).
Proof.
  unfold falling. rewrite sum_S, Nat.sub_diag, (sum_ext n _ (fun _ => 0)), sum_zero.
  - simpl. field.
  - intros j J. rewrite Rplus_opp_l, pow_i by lia. ring.
Qed.

(* sum_k C(n,k) (x + k)^k (y + n - k)^(n-k) = sum_j n!/(n-j)! (x + y + n)^(n-j): both have the same derivative in x, by
   induction, and at x = -y - n both are n!. *)
Theorem abel_identity n x y : abel n x y = falling n (x + y).
Proof.
  revert x y. induction n as [|n IH]; intros x y.
  { unfold abel, falling, binomial. rewrite !sum_S. simpl. real. field. }
  assert (C := constant_of_derivative (fun u => abel (S n) u y - falling (S n) (u + y)) x (- y - INR (S n))).
  cbv beta in C. rewrite abel_at_end in C. replace (- y - INR (S n) + y) with (- INR (S n)) in C by ring.
  rewrite falling_at_end in C.
  enough (abel (S n) x y - falling (S n) (x + y) = INR (fact (S n)) - INR (fact (S n))) by lra.
  apply C. intros u. replace 0 with (INR (S n) * abel n (u + 1) y - 1 * (INR (S n) * falling n (u + y + 1))).
  - apply (derive_sub (fun u => abel (S n) u y) (fun u => falling (S n) (u + y))); [apply abel_derivative|].
    apply (is_derive_comp (falling (S n)) (fun u => u + y)); [apply falling_derivative | auto_derive; [easy | ring]].
  - rewrite IH. replace (u + 1 + y) with (u + y + 1) by ring. ring.
Qed.

(* ---------- the sum of the products p_r ---------- *)

(* p_r = (1 - 1/m) ... (1 - (r - 1)/m) *)
Fixpoint product_of_gaps (m r : nat) : R :=
  match r with O => 1 | S j => product_of_gaps m j * (1 - INR j / INR m) end.

Lemma product_of_gaps_range m r : (0 < m)%nat -> (r <= S m)%nat -> 0 <= product_of_gaps m r <= 1.
Proof.
  intros Hm. induction r as [|r IH]; intros Hr; [simpl; lra|]. specialize (IH ltac:(lia)).
  pose proof (ratio_range r m ltac:(lia) Hm). simpl. split; [apply Rmult_le_pos; lra|].
  rewrite <- (Rmult_1_r 1). apply Rmult_le_compat; lra.
Qed.

Lemma falling_term m r : (0 < m)%nat -> (r <= m)%nat ->
  INR (fact m) / INR (fact (m - r)) * INR m ^ (m - r) = product_of_gaps m r * INR m ^ m.
Proof.
  intros Hm. assert (0 < INR m) by now apply lt_0_INR. induction r as [|r IH]; intros Hr.
  - rewrite Nat.sub_0_r. simpl. field. apply INR_fact_neq_0.
  - specialize (IH ltac:(lia)). cbn [product_of_gaps]. replace (m - r)%nat with (S (m - S r)) in IH by lia.
    replace (product_of_gaps m r * (1 - INR r / INR m) * INR m ^ m)
      with (product_of_gaps m r * INR m ^ m * (1 - INR r / INR m)) by ring.
    assert (INR (S r) <= INR m) by now apply le_INR.
    rewrite <- IH, fact_simpl, mult_INR, (S_INR (m - S r)), minus_INR, S_INR in * by lia. simpl pow. field.
    repeat split; try apply INR_fact_neq_0; lra.
Qed.

Lemma xi_is_sum m : (0 < m)%nat -> xi m = sum (S m) (product_of_gaps m).
Proof.
  intros Hm. assert (0 < INR m) by now apply lt_0_INR. assert (0 < INR m ^ m) by now apply pow_lt.
  assert (List : forall f n, sum_over f (seq 0 n) = sum n f).
  { intros f. induction n as [|n IH]; [reflexivity|]. rewrite seq_S, sum_over_app, IH, sum_S. simpl. ring. }
  unfold xi. rewrite List. apply (Rmult_eq_reg_r (INR m ^ m)); [|lra]. rewrite <- !sum_scal_r.
  transitivity (abel m 0 0).
  - apply sum_ext. intros k K. replace (INR m ^ m) with (INR m ^ k * INR m ^ (m - k))
      by (rewrite <- pow_add; f_equal; lia).
    unfold binomial. replace (0 + INR k) with (INR k / INR m * INR m) by (field; lra).
    replace (0 + INR (m - k)) with ((1 - INR k / INR m) * INR m) by (rewrite minus_INR by lia; field; lra).
    rewrite !Rpow_mult_distr. ring.
  - rewrite abel_identity, Rplus_0_r. apply sum_ext. intros r Hr. rewrite Rplus_0_l. apply falling_term; lia.
Qed.

(* sum_r r p_r = m: each term is m (p_r - p_(r+1)). *)
Lemma weighted_products m : (0 < m)%nat -> sum (S m) (fun r => INR r * product_of_gaps m r) = INR m.
Proof.
  intros Hm. assert (0 < INR m) by now apply lt_0_INR.
  assert (G : forall n, sum n (fun r => INR r * product_of_gaps m r) = INR m * (1 - product_of_gaps m n)).
  { induction n as [|n IH]; [simpl; real; ring|]. rewrite sum_S, IH. cbn [product_of_gaps]. field. lra. }
  rewrite G. cbn [product_of_gaps]. replace (INR m / INR m) with 1 by (field; lra). ring.
Qed.

(* p_r <= (1 - r/N if r < N) + r p_r / N *)
Lemma xi_at_most_by m N : (0 < m)%nat -> (0 < N <= S m)%nat -> xi m <= (INR N + 1) / 2 + INR m / INR N.
Proof.
  intros Hm HN. assert (HNpos : 0 < INR N) by (apply lt_0_INR; lia). rewrite (xi_is_sum m Hm).
  set (w r := if Nat.ltb r N then 1 - INR r / INR N else 0).
  assert (Start : forall n, (n <= N)%nat -> sum n w = INR n - INR n * (INR n - 1) / (2 * INR N)).
  { induction n as [|n IH]; intros Hn; [simpl; real; field; lra|]. rewrite sum_S, IH by lia. unfold w.
    destruct (Nat.ltb_spec n N) as [_|]; [|lia]. rewrite S_INR. field. lra. }
  assert (Rest : forall d, sum (N + d) w = sum N w).
  { induction d as [|d IH]; [now rewrite Nat.add_0_r|]. rewrite Nat.add_succ_r, sum_S, IH. unfold w.
    destruct (Nat.ltb_spec (N + d) N); [lia | ring]. }
  apply Rle_trans with (sum (S m) (fun r => w r + / INR N * (INR r * product_of_gaps m r))).
  - apply sum_le. intros r Hr. pose proof (product_of_gaps_range m r Hm ltac:(lia)) as P.
    set (p := product_of_gaps m r) in *.
    assert (Hq : 0 <= INR r / INR N) by (apply Rmult_le_pos; [apply pos_INR | left; now apply Rinv_0_lt_compat]).
    replace (/ INR N * (INR r * p)) with (INR r / INR N * p) by (field; lra). unfold w.
    destruct (Nat.ltb_spec r N) as [L|G].
    + pose proof (ratio_range r N ltac:(lia) ltac:(lia)). nra.
    + assert (1 <= INR r / INR N).
      { apply (Rmult_le_reg_r (INR N)); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra.
        apply le_INR in G. lra. }
      nra.
  - rewrite sum_plus, sum_scal, (weighted_products m Hm). replace (S m) with (N + (S m - N))%nat by lia.
    rewrite Rest, Start by lia. right. field. lra.
Qed.

(* xi(m) <= 2 sqrt m, for m >= 4 by N = 1 + the whole part of sqrt m, for less by its value *)
Theorem maurer_constant m : (0 < m)%nat -> xi m <= 2 * sqrt (INR m).
Proof.
  intros Hm. assert (Pos : 0 < INR m) by now apply lt_0_INR. pose proof (sqrt_lt_R0 _ Pos) as Root.
  pose proof (sqrt_sqrt (INR m) (Rlt_le _ _ Pos)) as Square. set (t := sqrt (INR m)) in *.
  destruct (Nat.le_gt_cases 4 m) as [Large|Small].
  - destruct (Nat.sqrt_spec m (Nat.le_0_l m)) as [Below Above]. set (a := Nat.sqrt m) in *.
    assert (Ha : INR a <= t).
    { apply Rsqr_incr_0_var; [|lra]. unfold Rsqr. rewrite Square, <- mult_INR. now apply le_INR. }
    assert (HN : t < INR (S a)).
    { apply Rsqr_incrst_0; [|lra|apply pos_INR]. unfold Rsqr. rewrite Square, <- mult_INR. now apply lt_INR. }
    assert (Two : 2 <= t).
    { apply Rsqr_incr_0_var; [|lra]. unfold Rsqr. rewrite Square. apply le_INR in Large. simpl in Large. lra. }
    apply Rle_trans with (1 := xi_at_most_by m (S a) Hm ltac:(nia)).
    assert (INR m / INR (S a) <= t).
    { apply (Rmult_le_reg_r (INR (S a))); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l, <- Square by lra. nra. }
    rewrite S_INR in *. lra.
  - assert (Least : forall x, 0 <= x -> x * x <= INR m -> x <= t).
    { intros x Hx Le. apply Rsqr_incr_0_var; [unfold Rsqr; lra | lra]. }
    rewrite (xi_is_sum m Hm). destruct m as [|[|[|[|m]]]]; try lia; rewrite !sum_S; simpl in *; real.
    + pose proof (Least 1 ltac:(lra) ltac:(lra)). lra.
    + pose proof (Least 1.25 ltac:(lra) ltac:(lra)). lra.
    + pose proof (Least 1.5 ltac:(lra) ltac:(lra)). lra.
Qed.

(* The number that bounds.pac_bayes_risk prints: any b >= q with m kl(q || b) >= K + ln(2 sqrt m / delta), where q is at
   least the posterior's expected share of errors and K at least KL(posterior || prior), is at least its risk, for all
   posteriors at once, except for a draw of probability delta. *)
Theorem pac_bayes_printed_risk {A H} (D : distribution A) (wrong : H -> A -> bool) (prior : distribution H) m delta :
  (0 < m)%nat -> 0 < delta ->
  Prob (draws D m) (fun sample => exists density q K b, is_posterior prior density /\
    posterior_mean prior density (error_rate wrong m sample) <= q <= b /\ divergence prior density <= K /\
    0 < b < 1 /\ K + ln (2 * sqrt (INR m) / delta) <= INR m * kl q b /\ b < posterior_risk D wrong prior density)
    <= delta.
Proof.
  intros Hm Hdelta. apply pac_bayes_risk; [exact Hm | exact Hdelta | | now apply maurer_constant].
  apply Rmult_lt_0_compat; [lra | now apply sqrt_lt_R0, lt_0_INR].
Qed.
