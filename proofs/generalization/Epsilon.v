(* The epsilon of a bound as a number, decided by computation.

   The main bound gives eps = sqrt((B ln 2 + ln(1/delta)) / 2m), the holdout bound the same with B = 0. For whole
   numbers B and m and rational eps and delta, [epsilon_suffices] decides that 2^B exp(-2 eps^2 m) <= delta, and
   [epsilon_too_small] that it is more, in integers: with 2^t <= 1/delta < 2^(t+1), exp(2 eps^2 m - (B + t) ln 2) is
   compared with 2^-t/delta, where ln 2 is enclosed and exp is summed from its series. *)

Require Import Reals Lra Lia ZArith List.
From LeanMnist.generalization Require Import Hoeffding Exponential.
Open Scope R_scope.

(* ---------- deciding 2^B exp(-2 eps^2 m) <= delta ---------- *)

(* ln 2 lies between these over 10^15. *)
Definition ln2_below : Z := 693147180559945.
Definition ln2_above : Z := 693147180559946.
Definition ln2_unit : Z := 10 ^ 15.

Lemma exp_ln2_below : exp (IZR ln2_below / IZR ln2_unit) < 2.
Proof. replace 2 with (IZR 2 / IZR 1) by field. apply (exp_below_sound 20). vm_compute. reflexivity. Qed.

Lemma exp_ln2_above : 2 <= exp (IZR ln2_above / IZR ln2_unit).
Proof. replace 2 with (IZR 2 / IZR 1) by field. apply (exp_at_least_sound 20). vm_compute. reflexivity. Qed.

(* (a, b) with 2 eps^2 m - B l = a/b, for eps = e/s and l = p / 10^15. *)
Definition rest (p : Z) (B m : nat) (e s : Z) : Z * Z :=
  ((2 * e * e * Z.of_nat m * ln2_unit - Z.of_nat B * p * s * s)%Z, (s * s * ln2_unit)%Z).

Lemma rest_spec p B m e s : (0 < s)%Z -> let '(a, b) := rest p B m e s in
  IZR a / IZR b = 2 * (IZR e / IZR s) ^ 2 * INR m - INR B * (IZR p / IZR ln2_unit).
Proof.
  intros Hs. unfold rest. assert (0 < IZR s) by now apply (IZR_lt 0).
  assert (0 < IZR ln2_unit) by now apply (IZR_lt 0).
  rewrite minus_IZR, !mult_IZR, <- !INR_IZR_INZ. field. lra.
Qed.

(* The decisions with t = 0, by the first 20 terms. *)
Definition suffices_unscaled (B m : nat) (e s c d : Z) : bool :=
  let '(a, b) := rest ln2_above B m e s in ((0 <? s) && (0 <? c) && (0 <? d) && exp_at_least 20 a b d c)%Z%bool.

Definition too_small_unscaled (B m : nat) (e s c d : Z) : bool :=
  let '(a, b) := rest ln2_below B m e s in ((0 <? s) && (0 <? c) && (0 <? d) && exp_below 20 a b d c)%Z%bool.

Lemma suffices_unscaled_sound B m e s c d : suffices_unscaled B m e s c d = true ->
  2 ^ B * exp (- 2 * (IZR e / IZR s) ^ 2 * INR m) <= IZR c / IZR d.
Proof.
  unfold suffices_unscaled. pose proof (rest_spec ln2_above B m e s) as Spec.
  destruct (rest ln2_above B m e s) as [a b].
  rewrite !Bool.andb_true_iff, !Z.ltb_lt. intros [[[Hs Hc] Hd] Hexp]. apply exp_at_least_sound in Hexp.
  rewrite (Spec Hs) in Hexp. set (x := 2 * (IZR e / IZR s) ^ 2 * INR m) in *.
  set (l := IZR ln2_above / IZR ln2_unit) in *.
  assert (0 < IZR c) by now apply (IZR_lt 0). assert (0 < IZR d) by now apply (IZR_lt 0).
  apply Rle_trans with (exp l ^ B * exp (- 2 * (IZR e / IZR s) ^ 2 * INR m)).
  - apply Rmult_le_compat_r; [left; apply exp_pos | apply pow_incr; split; [lra | exact exp_ln2_above]].
  - rewrite exp_pow, <- exp_plus. replace (INR B * l + - 2 * (IZR e / IZR s) ^ 2 * INR m) with (- (x - INR B * l))
      by (unfold x; ring).
    rewrite exp_Ropp. replace (IZR c / IZR d) with (/ (IZR d / IZR c)) by (field; lra).
    apply Rinv_le_contravar; [apply Rmult_lt_0_compat; [lra | now apply Rinv_0_lt_compat] | exact Hexp].
Qed.

Lemma too_small_unscaled_sound B m e s c d : too_small_unscaled B m e s c d = true ->
  IZR c / IZR d < 2 ^ B * exp (- 2 * (IZR e / IZR s) ^ 2 * INR m).
Proof.
  unfold too_small_unscaled. pose proof (rest_spec ln2_below B m e s) as Spec.
  destruct (rest ln2_below B m e s) as [a b].
  rewrite !Bool.andb_true_iff, !Z.ltb_lt. intros [[[Hs Hc] Hd] Hexp]. apply exp_below_sound in Hexp.
  rewrite (Spec Hs) in Hexp. set (x := 2 * (IZR e / IZR s) ^ 2 * INR m) in *.
  set (l := IZR ln2_below / IZR ln2_unit) in *.
  assert (0 < IZR c) by now apply (IZR_lt 0). assert (0 < IZR d) by now apply (IZR_lt 0).
  apply Rlt_le_trans with (exp l ^ B * exp (- 2 * (IZR e / IZR s) ^ 2 * INR m)).
  - rewrite exp_pow, <- exp_plus. replace (INR B * l + - 2 * (IZR e / IZR s) ^ 2 * INR m) with (- (x - INR B * l))
      by (unfold x; ring).
    rewrite exp_Ropp. replace (IZR c / IZR d) with (/ (IZR d / IZR c)) by (field; lra).
    assert (0 < IZR d / IZR c) by (apply Rmult_lt_0_compat; [lra | now apply Rinv_0_lt_compat]).
    apply Rinv_lt_contravar; [apply Rmult_lt_0_compat; [apply exp_pos | assumption] | exact Hexp].
  - apply Rmult_le_compat_r; [left; apply exp_pos | apply pow_incr].
    split; [left; apply exp_pos | left; exact exp_ln2_below].
Qed.

Definition scale (c d : Z) : nat := Z.to_nat (Z.log2 (d / c)).

Definition epsilon_suffices (B m : nat) (e s c d : Z) : bool :=
  let t := scale c d in suffices_unscaled (B + t) m e s (c * 2 ^ Z.of_nat t) d.

Definition epsilon_too_small (B m : nat) (e s c d : Z) : bool :=
  let t := scale c d in too_small_unscaled (B + t) m e s (c * 2 ^ Z.of_nat t) d.

Lemma scaled B t x c d :
  2 ^ (B + t) * x = 2 ^ B * x * 2 ^ t /\ IZR (c * 2 ^ Z.of_nat t) / IZR d = IZR c / IZR d * 2 ^ t.
Proof. split; [rewrite pow_add | rewrite mult_IZR, <- pow_IZR; unfold Rdiv]; ring. Qed.

(* If the computation says so, eps = e/s is enough at delta = c/d. *)
Theorem epsilon_suffices_sound B m e s c d : epsilon_suffices B m e s c d = true ->
  2 ^ B * exp (- 2 * (IZR e / IZR s) ^ 2 * INR m) <= IZR c / IZR d.
Proof.
  unfold epsilon_suffices. generalize (scale c d). intros t H. apply suffices_unscaled_sound in H.
  destruct (scaled B t (exp (- 2 * (IZR e / IZR s) ^ 2 * INR m)) c d) as [E1 E2]. rewrite E1, E2 in H.
  apply (Rmult_le_reg_r (2 ^ t)); [apply pow_lt; lra | exact H].
Qed.

(* If the computation says so, eps = e/s is not enough: the bound's right-hand side is above delta = c/d. *)
Theorem epsilon_too_small_sound B m e s c d : epsilon_too_small B m e s c d = true ->
  IZR c / IZR d < 2 ^ B * exp (- 2 * (IZR e / IZR s) ^ 2 * INR m).
Proof.
  unfold epsilon_too_small. generalize (scale c d). intros t H. apply too_small_unscaled_sound in H.
  destruct (scaled B t (exp (- 2 * (IZR e / IZR s) ^ 2 * INR m)) c d) as [E1 E2]. rewrite E1, E2 in H.
  apply (Rmult_lt_reg_r (2 ^ t)); [apply pow_lt; lra | exact H].
Qed.
