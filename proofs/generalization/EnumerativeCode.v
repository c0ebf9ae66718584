(* The enumerative code satisfies Kraft's inequality (Cover 1973): `enumerative_length` of spaces/encoding.py.

   A sequence of n symbols out of K is written by its counts, then by its number among the sequences with these counts:
     length = ceil(log2 C(n + K - 1, K - 1)) + ceil(log2 (n! / prod n_k!)).
   Proved: sum 2^-length <= 1 over all K^n sequences, since the sum of prod n_k! over them is K (K + 1) ... (K + n - 1).
   Several parts written one after the other keep the inequality, so it holds for a network's layers together. With
   [code_length_share] every network may then be given the share delta 2^-length. *)

Require Import Reals Lra Lia List ZArith PeanoNat.
From LeanMnist.generalization Require Import Distribution ClopperPearson CodeLength.
Import ListNotations.
Open Scope R_scope.

(* ---------- parts written one after the other ---------- *)

Lemma sum_over_prod {S T} (f : S -> R) (g : T -> R) l k :
  sum_over (fun st => f (fst st) * g (snd st)) (list_prod l k) = sum_over f l * sum_over g k.
Proof.
  induction l as [|s l IH]; [simpl; ring|]. cbn [list_prod]. rewrite sum_over_app, sum_over_map, IH, sum_over_cons.
  cbn [fst snd]. rewrite sum_over_scal. ring.
Qed.

(* Two independent parts: their lengths add, and Kraft's inequality remains. *)
Theorem kraft_of_two_parts {S T} (first : S -> nat) (second : T -> nat) l k :
  sum_over (fun s => weight (first s)) l <= 1 -> sum_over (fun t => weight (second t)) k <= 1 ->
  sum_over (fun st => weight (first (fst st) + second (snd st))) (list_prod l k) <= 1.
Proof.
  intros Hl Hk. unfold weight in *.
  rewrite (sum_over_ext_on _ (fun st => (/ 2) ^ first (fst st) * (/ 2) ^ second (snd st))) by (intros; apply pow_add).
  rewrite (sum_over_prod (fun s => (/ 2) ^ first s) (fun t => (/ 2) ^ second t)).
  assert (0 <= sum_over (fun t => (/ 2) ^ second t) k) by (apply sum_over_nonneg; intros; apply pow_le; lra).
  replace 1 with (1 * 1) by ring. apply Rmult_le_compat; try assumption.
  apply sum_over_nonneg; intros; apply pow_le; lra.
Qed.

(* ---------- sequences by their counts ---------- *)

Section Enumerative.
  Variable K : nat.
  Let alphabet := seq 0 K.

  Fixpoint sequences (n : nat) : list (list nat) :=
    match n with O => [[]] | S m => flat_map (fun s => map (fun k => k :: s) alphabet) (sequences m) end.

  Definition count (s : list nat) (k : nat) : nat := count_occ Nat.eq_dec s k.

  (* The product of n_k! over some symbols. *)
  Definition factorials (symbols s : list nat) : R := fold_right (fun k r => INR (fact (count s k)) * r) 1 symbols.

  (* The number of sequences with the same counts as s: n! / prod n_k!. *)
  Definition multinomial (s : list nat) : R := INR (fact (length s)) / factorials alphabet s.

  Lemma sequences_in n s : In s (sequences n) -> length s = n /\ forall k, In k s -> In k alphabet.
  Proof.
    revert s. induction n; intros s I.
    - destruct I as [<-|[]]. split; [reflexivity | easy].
    - simpl in I. apply in_flat_map in I as (r & Ir & I). apply in_map_iff in I as (j & <- & Ij).
      destruct (IHn r Ir) as [<- Hr]. split; [reflexivity|]. intros k [<-|Hk]; [exact Ij | now apply Hr].
  Qed.

  Lemma factorials_step k symbols s :
    factorials (k :: symbols) s = INR (fact (count s k)) * factorials symbols s.
  Proof. reflexivity. Qed.

  Lemma factorials_pos symbols s : 0 < factorials symbols s.
  Proof. induction symbols; simpl; [lra|]. apply Rmult_lt_0_compat; [apply INR_fact_lt_0 | assumption]. Qed.

  Lemma factorials_cons_other symbols j s : ~ In j symbols -> factorials symbols (j :: s) = factorials symbols s.
  Proof.
    induction symbols as [|k symbols IH]; intros H; [reflexivity|]. simpl in H.
    rewrite !factorials_step, IH by tauto. unfold count. rewrite count_occ_cons_neq by (intros ->; tauto). reflexivity.
  Qed.

  Lemma factorials_cons symbols j s : NoDup symbols -> In j symbols ->
    factorials symbols (j :: s) = (INR (count s j) + 1) * factorials symbols s.
  Proof.
    induction symbols as [|k symbols IH]; intros Hdup I; [easy|]. apply NoDup_cons_iff in Hdup as [Hk Hdup].
    rewrite !factorials_step. destruct (Nat.eq_dec k j) as [->|Hne].
    - rewrite factorials_cons_other by exact Hk. unfold count at 1. rewrite count_occ_cons_eq by reflexivity.
      fold (count s j). rewrite fact_simpl, mult_INR, S_INR. ring.
    - destruct I as [Eq|I]; [contradiction|]. rewrite IH by assumption.
      unfold count at 1. rewrite count_occ_cons_neq by auto. fold (count s k). ring.
  Qed.

  Lemma counts_sum symbols s : NoDup symbols -> (forall k, In k s -> In k symbols) ->
    sum_over (fun k => INR (count s k)) symbols = INR (length s).
  Proof.
    intros Hdup. induction s as [|j s IH]; intros Hs.
    - rewrite (sum_over_ext_on _ (fun _ => 0)) by reflexivity. rewrite sum_over_const. simpl. ring.
    - change (length (j :: s)) with (S (length s)). rewrite S_INR, <- IH by (intros; apply Hs; now right).
      assert (Hj : In j symbols) by (apply Hs; now left). clear IH Hs.
      induction symbols as [|k symbols IH]; [easy|]. apply NoDup_cons_iff in Hdup as [Hk Hdup].
      rewrite !sum_over_cons. destruct (Nat.eq_dec k j) as [->|Hne].
      + unfold count at 1. rewrite count_occ_cons_eq by reflexivity. fold (count s j). rewrite S_INR.
        rewrite (sum_over_ext_on (fun k => INR (count (j :: s) k)) (fun k => INR (count s k))); [ring|].
        intros k I. unfold count. rewrite count_occ_cons_neq; [reflexivity | intros ->; contradiction].
      + destruct Hj as [Eq|Hj]; [contradiction|]. rewrite IH by assumption.
        unfold count at 1. rewrite count_occ_cons_neq by auto. fold (count s k). ring.
  Qed.

  (* C(n + K - 1, K - 1), the number of ways to make n the sum of K counts, as K (K + 1) ... (K + n - 1) / n!. *)
  Fixpoint rising (n : nat) : R := match n with O => 1 | S m => (INR m + INR K) * rising m end.

  Lemma sum_of_factorials n : sum_over (factorials alphabet) (sequences n) = rising n.
  Proof.
    induction n.
    - simpl. rewrite Rplus_0_r. induction alphabet as [|k a IH]; [reflexivity|]. simpl. rewrite IH. ring.
    - cbn [sequences rising]. rewrite <- IHn, <- sum_over_scal.
      assert (Hin := sequences_in n). revert Hin. generalize (sequences n). intros l Hin.
      induction l as [|s l IH]; [reflexivity|].
      cbn [flat_map]. rewrite sum_over_app, sum_over_map, IH by (intros; apply Hin; now right).
      rewrite sum_over_cons. f_equal. destruct (Hin s) as [<- Hs]; [now left|].
      assert (Hdup : NoDup alphabet) by apply seq_NoDup.
      rewrite (sum_over_ext_on _ (fun k => factorials alphabet s * (INR (count s k) + 1))).
      + rewrite sum_over_scal, sum_over_plus, counts_sum, sum_over_const by assumption. unfold alphabet.
        rewrite seq_length. ring.
      + intros k I. rewrite factorials_cons by assumption. ring.
  Qed.

  Lemma sum_of_inverse_multinomials n :
    sum_over (fun s => / multinomial s) (sequences n) = rising n / INR (fact n).
  Proof.
    rewrite (sum_over_ext_on _ (fun s => / INR (fact n) * factorials alphabet s)).
    - rewrite sum_over_scal, sum_of_factorials. unfold Rdiv. ring.
    - intros s I. destruct (sequences_in n s I) as [<- _]. unfold multinomial. pose proof (factorials_pos alphabet s).
      field. split; (apply INR_fact_neq_0 || lra).
  Qed.
End Enumerative.

Lemma choose_absorb m k : (Z.of_nat (S k) * choose (S m) (S k) = Z.of_nat (S m) * choose m k)%Z.
Proof. pose proof (choose_next m k). simpl choose. lia. Qed.

Lemma choose_rising k n : IZR (choose (n + k) k) = rising (S k) n / INR (fact n).
Proof.
  induction n.
  - simpl. replace (choose k k) with 1%Z; [field|]. symmetry. induction k; [reflexivity|].
    simpl. rewrite IHk, choose_beyond by lia. reflexivity.
  - pose proof (choose_next (S (n + k)) k) as Next. rewrite choose_absorb in Next.
    apply (f_equal IZR) in Next. rewrite !mult_IZR, minus_IZR, <- !INR_IZR_INZ, IHn in Next.
    replace (INR (S (n + k)) - INR k) with (INR (S n)) in Next by (rewrite !S_INR, plus_INR; ring).
    assert (0 < INR (S n)) by (apply lt_0_INR; lia). pose proof (INR_fact_lt_0 n).
    cbn [Nat.add rising]. rewrite fact_simpl, mult_INR.
    apply (Rmult_eq_reg_l (INR (S n))); [|lra]. rewrite <- Next, !S_INR, plus_INR. field. rewrite S_INR in *. lra.
Qed.

(* Whatever whole numbers of bits are enough for the table of counts and for the number within it. *)
Theorem enumerative_code_kraft k n (table : nat) (number : list nat -> nat) :
  IZR (choose (n + k) k) <= 2 ^ table ->
  (forall s, In s (sequences (S k) n) -> multinomial (S k) s <= 2 ^ number s) ->
  sum_over (fun s => weight (number s + table)) (sequences (S k) n) <= 1.
Proof.
  intros Htable Hnumber. pose proof (pow_lt 2 table ltac:(lra)) as Hpos. unfold weight.
  apply Rle_trans with (sum_over (fun s => / 2 ^ table * / multinomial (S k) s) (sequences (S k) n)).
  - apply sum_over_le_on. intros s I. rewrite pow_add, !pow_inv, Rmult_comm.
    apply Rmult_le_compat_l; [left; now apply Rinv_0_lt_compat|]. apply Rinv_le_contravar; [|now apply Hnumber].
    apply Rmult_lt_0_compat; [apply INR_fact_lt_0 | apply Rinv_0_lt_compat, factorials_pos].
  - rewrite sum_over_scal, sum_of_inverse_multinomials, <- choose_rising.
    apply (Rmult_le_reg_l (2 ^ table)); [exact Hpos|]. rewrite <- Rmult_assoc, Rinv_r by lra. lra.
Qed.
