(* The binomial relative entropy with numbers put in, and what it certifies of MLCERT's counts.

   For k errors in n examples, a risk p = a/d, B bits and delta = c/e, [kl_suffices] decides from enclosed logarithms
     n kl(k/n || p) >= B ln 2 + ln(1/delta),
   so that P[Binomial(n, p) <= k] <= delta / 2^B: for a learner of B bits (B = 0: a holdout) "at most k errors, and a
   risk above p" has probability at most delta. From the counts of MLCERT's table 1 follow accuracies of 81.96 % and
   59.18 % by the union, where MLCERT has 77.32 % and 53.00 %, and 91.68 % and 94.99 % by the holdout. *)

Require Import Reals Lra Lia ZArith List.
From LeanMnist.generalization Require Import Distribution Hoeffding ClopperPearson UnionBound Confidence BinomialKL.
From LeanMnist.generalization Require Import Exponential Epsilon.
Open Scope R_scope.
Set Warnings "-abstract-large-number".

(* ---------- one count, one risk ---------- *)

Lemma binomial_tail_mono n j k p : 0 <= p <= 1 -> (j <= k)%nat -> binomial_tail n j p <= binomial_tail n k p.
Proof.
  intros Hp H. induction H as [|k H IH]; [apply Rle_refl|]. eapply Rle_trans; [exact IH|].
  unfold binomial_tail. rewrite tech5. pose proof (binomial_term_nonneg n p (S k) Hp). lra.
Qed.

(* The bound that says "at most p" where at most k errors were made, and nothing elsewhere. *)
Definition bound_at (k : nat) (p : R) (errors : nat) : R := if Nat.leb errors k then p else 1.

Lemma binomial_tail_nonneg n k p : 0 <= p <= 1 -> 0 <= binomial_tail n k p.
Proof.
  intros Hp. rewrite binomial_tail_below. induction (S k) as [|j IH]; [apply Rle_refl|].
  simpl. pose proof (binomial_term_nonneg n p j Hp). lra.
Qed.

(* If P[Binomial(n, p) <= k] <= delta, then "at most k errors, so a risk of at most p" fails with at most delta. *)
Theorem bound_at_covers n k p delta : 0 <= p <= 1 -> binomial_tail n k p <= delta -> covers n delta (bound_at k p).
Proof.
  intros Hp Htail. pose proof (binomial_tail_nonneg n k p Hp).
  apply clopper_pearson_covers; [lra | intros j | intros j _]; unfold bound_at; destruct (Nat.leb_spec j k); try lra.
  intros _. apply Rle_trans with (binomial_tail n k p); [now apply binomial_tail_mono | exact Htail].
Qed.

(* What is concluded from at most k errors in n examples of a hypothesis of B bits that was learnt from them. *)
Theorem learnt_risk_from_count {A} (D : distribution A) (wrong : list bool -> A -> bool) (learn : list A -> list bool)
  B n k p delta :
  (forall sample, length sample = n -> length (learn sample) = B) -> 0 <= p <= 1 ->
  binomial_tail n k p <= delta / 2 ^ B ->
  Prob (draws D n) (fun sample => (errors (wrong (learn sample)) sample <= k)%nat /\ p < risk D (wrong (learn sample)))
    <= delta.
Proof.
  intros HB Hp Htail.
  eapply Rle_trans; [|apply (union_share D wrong n delta B (bound_at k p) (words B)); [rewrite words_count; lra|]].
  - apply Prob_mono_on. intros sample I [Hk Hrisk]. exists (learn sample). split.
    + rewrite <- (HB sample (draws_length D n sample I)). apply words_complete.
    + unfold bound_at. apply Nat.leb_le in Hk. rewrite Hk. exact Hrisk.
  - now apply bound_at_covers.
Qed.

(* ---------- the decision ---------- *)

(* Whether ln(p/q) <= y, x < ln((1 - q)/(1 - p)) and ln(1/delta) <= l, over 10^15, and whether they are enough. *)
Definition kl_suffices (B k n : nat) (a d c e y x l : Z) : bool :=
  let K := Z.of_nat k in let N := Z.of_nat n in let unit := ln2_unit in
  ((0 <? K) && (K <? N) && (0 <? a) && (a <? d) && (0 <? c) && (0 <? e) && (K * d <=? N * a)
   && exp_at_least 30 y unit (N * a) (K * d) && exp_below 30 x unit ((N - K) * d) (N * (d - a))
   && exp_at_least 80 l unit e c
   && (Z.of_nat B * ln2_above + l <=? (N - K) * x - K * y))%Z%bool.

(* If the computation says so, P[Binomial(n, a/d) <= k] <= delta / 2^B with delta = c/e. *)
Theorem kl_suffices_sound B k n a d c e y x l : kl_suffices B k n a d c e y x l = true ->
  binomial_tail n k (IZR a / IZR d) <= IZR c / IZR e / 2 ^ B.
Proof.
  unfold kl_suffices. cbv zeta. rewrite !Bool.andb_true_iff, !Z.leb_le, !Z.ltb_lt.
  intros [[[[[[[[[[HK HN] Ha] Hd] Hc] He] Hqp] Hy] Hx] Hl] Hsum].
  apply exp_at_least_sound in Hy, Hl. apply exp_below_sound in Hx.
  assert (Hkn : (k < n)%nat) by lia.
  apply IZR_lt in HK, HN, Ha, Hd, Hc, He. apply IZR_le in Hqp, Hsum.
  rewrite ?plus_IZR, ?minus_IZR, ?mult_IZR, ?minus_IZR, <- ?INR_IZR_INZ in *.
  assert (Hu : 0 < IZR ln2_unit) by now apply (IZR_lt 0).
  set (p := IZR a / IZR d). set (q := INR k / INR n). set (u := IZR ln2_unit) in *.
  assert (Hp : 0 < p < 1).
  { unfold p. split; [apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]|].
    apply (Rmult_lt_reg_r (IZR d)); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
  assert (Hq : 0 < q) by (apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]).
  assert (Hle : q <= p).
  { apply (Rmult_le_reg_r (INR n * IZR d)); [apply Rmult_lt_0_compat; lra|]. unfold q, p.
    replace (INR k / INR n * (INR n * IZR d)) with (INR k * IZR d) by (field; lra).
    replace (IZR a / IZR d * (INR n * IZR d)) with (INR n * IZR a) by (field; lra). exact Hqp. }
  assert (Y : exp (- (IZR y / u)) <= q / p).
  { rewrite exp_Ropp. replace (q / p) with (/ (INR n * IZR a / (INR k * IZR d))) by (unfold q, p; field; lra).
    apply Rinv_le_contravar; [|exact Hy]. apply Rmult_lt_0_compat; [apply Rmult_lt_0_compat; lra|].
    apply Rinv_0_lt_compat, Rmult_lt_0_compat; lra. }
  assert (X : exp (IZR x / u) <= (1 - q) / (1 - p)).
  { left. replace ((1 - q) / (1 - p)) with ((INR n - INR k) * IZR d / (INR n * (IZR d - IZR a))); [exact Hx|].
    unfold q, p. field. lra. }
  pose proof (binomial_tail_chernoff_pow n k p ltac:(lia) ltac:(lia) Hp Hle) as C. cbv zeta in C. fold q in C.
  pose proof (binomial_tail_nonneg n k p ltac:(lra)) as Tail.
  assert (Power : 2 ^ B * (IZR e / IZR c) <= (q / p) ^ k * ((1 - q) / (1 - p)) ^ (n - k)).
  { apply Rle_trans with (exp (- (IZR y / u)) ^ k * exp (IZR x / u) ^ (n - k)).
    2:{ apply Rmult_le_compat; try (apply pow_le; left; apply exp_pos); apply pow_incr; split;
          try (left; apply exp_pos); assumption. }
    rewrite !exp_pow, <- exp_plus, minus_INR by lia.
    apply Rle_trans with (exp (INR B * (IZR ln2_above / u)) * exp (IZR l / u)).
    - rewrite <- exp_pow. apply Rmult_le_compat; [apply pow_le; lra | | | exact Hl].
      + left. apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra].
      + apply pow_incr. split; [lra | exact exp_ln2_above].
    - rewrite <- exp_plus. apply exp_le. apply (Rmult_le_reg_r u); [exact Hu|].
      replace ((INR B * (IZR ln2_above / u) + IZR l / u) * u) with (INR B * IZR ln2_above + IZR l) by (field; lra).
      replace ((INR k * - (IZR y / u) + (INR n - INR k) * (IZR x / u)) * u)
        with ((INR n - INR k) * IZR x - INR k * IZR y) by (field; lra).
      lra. }
  rewrite Rmult_assoc in C. pose proof (pow_lt 2 B ltac:(lra)) as H2.
  assert (Hec : 0 < IZR e / IZR c) by (apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]).
  apply (Rmult_le_compat_l _ _ _ Tail) in Power.
  apply (Rmult_le_reg_r (2 ^ B * (IZR e / IZR c))); [now apply Rmult_lt_0_compat|].
  replace (IZR c / IZR e / 2 ^ B * (2 ^ B * (IZR e / IZR c))) with 1 by (field; lra). lra.
Qed.

(* ---------- MLCERT's counts ---------- *)

Ltac decide_kl a d y x := replace 1e-9 with (IZR 1 / IZR (10 ^ 9)) by lra;
  match goal with |- binomial_tail _ _ ?p <= _ => replace p with (IZR a / IZR d) by lra end;
  apply (kl_suffices_sound _ _ _ a d 1 (10 ^ 9) y x 20723265836946412%Z); vm_compute; reflexivity.

Lemma tail_2_bit : binomial_tail 240000 17971 0.1804 <= 1e-9 / 2 ^ 15944.
Proof. decide_kl 1804%Z 10000%Z 879300904438493%Z 121107943246873%Z. Qed.

Lemma tail_16_bit : binomial_tail 240000 9965 0.4082 <= 1e-9 / 2 ^ 127104.
Proof. decide_kl 4082%Z 10000%Z 2285561941070841%Z 482179086932999%Z. Qed.

Lemma tail_2_bit_holdout : binomial_tail 40000 2977 0.0832 <= 1e-9 / 2 ^ 0.
Proof. decide_kl 832%Z 10000%Z 111455440925323%Z 9525820046881%Z. Qed.

Lemma tail_16_bit_holdout : binomial_tail 40000 1729 0.0501 <= 1e-9 / 2 ^ 0.
Proof. decide_kl 501%Z 10000%Z 147601976521465%Z 7211538196326%Z. Qed.

Section Counts.
  Context {A : Type} (D : distribution A) (wrong : list bool -> A -> bool).

  (* 2 bits: 17,971 errors in 240,000 training examples; the risk is at most 18.04 % but for 10^-9. *)
  Theorem kl_risk_2_bit (learn : list A -> list bool) :
    (forall sample, length sample = 240000%nat -> length (learn sample) = 15944%nat) ->
    Prob (draws D 240000) (fun sample =>
      (errors (wrong (learn sample)) sample <= 17971)%nat /\ 0.1804 < risk D (wrong (learn sample))) <= 1e-9.
  Proof. intros HB. apply (learnt_risk_from_count D wrong learn 15944); [exact HB | lra | exact tail_2_bit]. Qed.

  (* 16 bits: 9,965 errors; at most 40.82 %. *)
  Theorem kl_risk_16_bit (learn : list A -> list bool) :
    (forall sample, length sample = 240000%nat -> length (learn sample) = 127104%nat) ->
    Prob (draws D 240000) (fun sample =>
      (errors (wrong (learn sample)) sample <= 9965)%nat /\ 0.4082 < risk D (wrong (learn sample))) <= 1e-9.
  Proof. intros HB. apply (learnt_risk_from_count D wrong learn 127104); [exact HB | lra | exact tail_16_bit]. Qed.

  Lemma holdout_risk_from_count {W} (past : distribution W) (learn : W -> list bool) n k p delta :
    0 <= p <= 1 -> binomial_tail n k p <= delta ->
    Prob (product past (draws D n)) (fun both => let h := learn (fst both) in
      (errors (wrong h) (snd both) <= k)%nat /\ p < risk D (wrong h)) <= delta.
  Proof.
    intros Hp Htail. apply Prob_product_le. intros w. cbn [fst snd].
    eapply Rle_trans; [|exact (bound_at_covers n k p delta Hp Htail A D (wrong (learn w)))].
    apply Prob_mono. intros sample [Hk Hrisk]. unfold bound_at. apply Nat.leb_le in Hk. rewrite Hk. exact Hrisk.
  Qed.

  (* 2,977 errors in 40,000 fresh examples (2 bits): at most 8.32 %. *)
  Theorem kl_risk_2_bit_holdout {W} (past : distribution W) (learn : W -> list bool) :
    Prob (product past (draws D 40000)) (fun both => let h := learn (fst both) in
      (errors (wrong h) (snd both) <= 2977)%nat /\ 0.0832 < risk D (wrong h)) <= 1e-9.
  Proof. apply holdout_risk_from_count; [lra|]. eapply Rle_trans; [exact tail_2_bit_holdout | simpl; lra]. Qed.

  (* 1,729 errors (16 bits): at most 5.01 %. *)
  Theorem kl_risk_16_bit_holdout {W} (past : distribution W) (learn : W -> list bool) :
    Prob (product past (draws D 40000)) (fun both => let h := learn (fst both) in
      (errors (wrong h) (snd both) <= 1729)%nat /\ 0.0501 < risk D (wrong h)) <= 1e-9.
  Proof. apply holdout_risk_from_count; [lra|]. eapply Rle_trans; [exact tail_16_bit_holdout | simpl; lra]. Qed.
End Counts.
