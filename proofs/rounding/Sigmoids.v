(* The logistic sigmoid and tanh on balls: BallPrimitives.sigmoid and .tanh of enclosure/primitives.py.

   The function changes over the ball by at most its radius times the largest slope in it, and by no more than the
   width of the function's range. The slope of the sigmoid is e^-|x| / (1 + e^-|x|)^2, which falls in |x|, so that it is
   largest at the smallest |x| in the ball, the mignitude; that of tanh is 4 times that at 2 |x|. The error of the
   computed value at the midpoint is assumed as in ElementaryFunctions.v. erf is not covered. *)
Require Import Reals Lra Lia Psatz.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import generalization.Hoeffding gradients.Activations rounding.FloatingPoint rounding.Balls
  rounding.ElementaryFunctions.
Open Scope R_scope.

(* e^-t / (1 + e^-t)^2: primitives._logistic_slope *)
Definition logistic_slope (t : R) : R := exp (- t) / (1 + exp (- t)) ^ 2.

Lemma logistic_slope_falls s t : 0 <= s <= t -> logistic_slope t <= logistic_slope s.
Proof.
  intros St. unfold logistic_slope. assert (Ps := exp_pos (- s)). assert (Pt := exp_pos (- t)).
  assert (Le : exp (- t) <= exp (- s)) by (apply exp_le; lra).
  assert (One : exp (- s) <= 1) by (rewrite <- exp_0; apply exp_le; lra).
  set (p := exp (- s)) in *. set (q := exp (- t)) in *.
  apply Rmult_le_reg_r with ((1 + q) ^ 2 * (1 + p) ^ 2); [apply Rmult_lt_0_compat; apply pow_lt; lra|].
  replace (q / (1 + q) ^ 2 * ((1 + q) ^ 2 * (1 + p) ^ 2)) with (q * (1 + p) ^ 2) by (field; lra).
  replace (p / (1 + p) ^ 2 * ((1 + q) ^ 2 * (1 + p) ^ 2)) with (p * (1 + q) ^ 2) by (field; lra).
  assert (0 <= (p - q) * (1 - p * q)) by (apply Rmult_le_pos; nra). nra.
Qed.

(* sigma' (z) = sigma (1 - sigma) is that slope at |z|. *)
Lemma sigma_slope z : sigma z * (1 - sigma z) = logistic_slope (Rabs z).
Proof.
  unfold sigma, logistic_slope. assert (P := exp_pos (- z)). unfold Rabs. destruct (Rcase_abs z); [|field; lra].
  rewrite Ropp_involutive. assert (Q := exp_pos z). assert (E : exp (- z) = / exp z) by apply exp_Ropp.
  rewrite E. field. lra.
Qed.

Lemma tanh_slope z : 1 - tanh z * tanh z = 4 * logistic_slope (2 * Rabs z).
Proof.
  rewrite <- tanh_quotient. unfold logistic_slope. assert (P := exp_pos z).
  assert (E : exp (- z) = / exp z) by apply exp_Ropp. rewrite E.
  assert (D : exp (- (2 * Rabs z)) = (/ exp (Rabs z)) ^ 2).
  { replace (- (2 * Rabs z)) with (- Rabs z + - Rabs z) by ring. rewrite exp_plus, exp_Ropp. ring. }
  rewrite D. unfold Rabs. destruct (Rcase_abs z); [rewrite exp_Ropp|]; set (e := exp z) in *; field; nra.
Qed.

Lemma sigma_range z : 0 < sigma z < 1.
Proof.
  unfold sigma. assert (P := exp_pos (- z)). split; [apply Rdiv_lt_0_compat; lra|].
  apply Rmult_lt_reg_r with (1 + exp (- z)); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra.
Qed.

Lemma tanh_range z : -1 < tanh z < 1.
Proof.
  rewrite <- tanh_quotient. assert (P := exp_pos z). assert (Q := exp_pos (- z)).
  split; apply Rmult_lt_reg_r with (exp z + exp (- z)); try lra; unfold Rdiv; rewrite Rmult_assoc, Rinv_l by lra; lra.
Qed.

(* A function changes over a ball by at most the radius times a bound of its slope there. *)
Lemma change_by_slope (f f' : R -> R) b x slope : (forall z, is_derive f z (f' z)) -> contains b x ->
  (forall z, contains b z -> Rabs (f' z) <= slope) -> Rabs (f x - f (mid b)) <= rad b * slope.
Proof.
  intros D C S. destruct (MVT_gen f (mid b) x f') as (z & I & E).
  - intros z _. apply D.
  - intros z _. apply continuity_pt_filterlim, (ex_derive_continuous f). exists (f' z). apply D.
  - rewrite E, Rabs_mult, Rmult_comm. assert (Z : contains b z).
    { unfold contains in *. apply Rabs_within in C. apply Rabs_within.
      unfold Rmin, Rmax in I. destruct (Rle_dec (mid b) x); lra. }
    apply Rmult_le_compat; try apply Rabs_pos; [exact C | now apply S].
Qed.

(* The smallest magnitude in the ball is at least any t below the mignitude. *)
Lemma mignitude_below b z t : contains b z -> t <= Rmax (Rabs (mid b) - rad b) 0 -> t <= Rabs z.
Proof. intros C T. assert (M := mignitude_bounds b z C). lra. Qed.

Section Sigmoids.
  Variables ulps epsilon tiny : R.
  Hypothesis Ulps : 1 <= ulps.
  Hypothesis Epsilon : 0 < epsilon.
  Hypothesis Few : 8 * ulps * (ulps + 1) * epsilon <= 1.
  Hypothesis Tiny : 0 <= tiny.
  Local Notation near := (computed (ulps * epsilon) tiny).

  (* t is the mignitude, rounded down, slope at least the slope there: min(r slope, 1) + own <= R *)
  Theorem sigmoid_contains b x m t slope R' : contains b x -> near (sigma (mid b)) m ->
    0 <= t <= Rmax (Rabs (mid b) - rad b) 0 -> logistic_slope t <= slope ->
    Rmin (rad b * slope) 1 + ((ulps + 1) * epsilon * Rabs m + 2 * tiny) <= R' ->
    contains {| mid := m; rad := R' |} (sigma x).
  Proof.
    intros C M T S Le. apply (around_contains ulps epsilon tiny Ulps Epsilon Few Tiny sigma (mid b) m x
      (Rmin (rad b * slope) 1) R' M); [|exact Le]. apply Rmin_glb.
    - apply (change_by_slope sigma (fun z => sigma z * (1 - sigma z))); [apply sigmoid_derivative | exact C|].
      intros z Z. rewrite sigma_slope. assert (B := mignitude_below b z t Z (proj2 T)).
      rewrite Rabs_pos_eq; [apply Rle_trans with (2 := S), logistic_slope_falls; lra|].
      rewrite <- sigma_slope. assert (G := sigma_range z). nra.
    - assert (A := sigma_range x). assert (B := sigma_range (mid b)). apply Rabs_within. lra.
  Qed.

  (* slope at least 4 times the logistic slope at 2 t: min(r slope, 2) + own <= R *)
  Theorem tanh_contains b x m t slope R' : contains b x -> near (tanh (mid b)) m ->
    0 <= t <= Rmax (Rabs (mid b) - rad b) 0 -> 4 * logistic_slope (2 * t) <= slope ->
    Rmin (rad b * slope) 2 + ((ulps + 1) * epsilon * Rabs m + 2 * tiny) <= R' ->
    contains {| mid := m; rad := R' |} (tanh x).
  Proof.
    intros C M T S Le. apply (around_contains ulps epsilon tiny Ulps Epsilon Few Tiny tanh (mid b) m x
      (Rmin (rad b * slope) 2) R' M); [|exact Le]. apply Rmin_glb.
    - apply (change_by_slope tanh (fun z => 1 - tanh z * tanh z)); [apply tanh_derivative | exact C|].
      intros z Z. rewrite tanh_slope. assert (B := mignitude_below b z t Z (proj2 T)).
      assert (F := logistic_slope_falls (2 * t) (2 * Rabs z) ltac:(lra)).
      rewrite Rabs_pos_eq; [lra|]. rewrite <- tanh_slope. assert (G := tanh_range z). nra.
    - assert (A := tanh_range x). assert (B := tanh_range (mid b)). apply Rabs_within. lra.
  Qed.
End Sigmoids.
