(* Elementary functions on balls, and exp and log in particular, given what the library's functions may be off by.

   Of a computed value m of v = f(a) it is assumed, as enclosure/rounding.py does, that |m - v| <= k |v| + tiny, where k
   is ELEMENTARY_ULPS 2^-52 and tiny is 2^-1022. Then the ball of BallPrimitives (enclosure/primitives.py), around m and
   of radius change + own, contains f(x) for every x in the ball of the argument: change bounds |f(x) - f(a)|, own
   bounds |m - f(a)|. tanh, the sigmoid and erf, where the change is bounded by a slope, have the same form. *)
Require Import Reals Lra Lia Psatz.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import generalization.Hoeffding rounding.FloatingPoint rounding.Balls.
Open Scope R_scope.

(* m is a computed value of v. *)
Definition computed (k tiny v m : R) : Prop := Rabs (m - v) <= k * Rabs v + tiny.

Section Computed.
  Variables ulps epsilon tiny : R.
  Hypothesis Ulps : 1 <= ulps.
  Hypothesis Epsilon : 0 < epsilon.
  Hypothesis Few : 8 * ulps * (ulps + 1) * epsilon <= 1.
  Hypothesis Tiny : 0 <= tiny.
  Local Notation near := (computed (ulps * epsilon) tiny).

  Lemma slight : 0 < ulps * epsilon <= 1 / 16.
  Proof.
    assert (P : 0 < ulps * epsilon) by (apply Rmult_lt_0_compat; lra).
    assert (0 <= (ulps - 1) * (ulps * epsilon)) by (apply Rmult_le_pos; lra). lra.
  Qed.

  (* primitives._above: v <= m (1 + 2 ulps epsilon) + 2 tiny, for v >= 0 *)
  Lemma above v m : 0 <= v -> near v m -> v <= m * (1 + 2 * ulps * epsilon) + 2 * tiny.
  Proof.
    intros V N. unfold computed in N. rewrite (Rabs_pos_eq v) in N by exact V. apply Rabs_within in N.
    assert (S := slight). set (k := ulps * epsilon) in *.
    replace (2 * ulps * epsilon) with (2 * k) by (unfold k; ring). nra.
  Qed.

  (* primitives._around: |m - v| <= (ulps + 1) epsilon |m| + 2 tiny *)
  Lemma own_error v m : near v m -> Rabs (m - v) <= (ulps + 1) * epsilon * Rabs m + 2 * tiny.
  Proof.
    intros N. unfold computed in N. assert (S := slight).
    assert (T : Rabs v <= Rabs m + Rabs (m - v)).
    { replace v with (m + - (m - v)) at 1 by ring. apply Rle_trans with (1 := Rabs_triang _ _).
      rewrite Rabs_Ropp. lra. }
    assert (M := Rabs_pos m). set (d := Rabs (m - v)) in *. set (k := ulps * epsilon) in *.
    assert (D : d * (1 - k) <= k * Rabs m + tiny) by nra.
    assert (Kk : k <= (ulps + 1) * epsilon * (1 - k)).
    { unfold k. assert (8 * ((ulps + 1) * (ulps * epsilon)) <= 1) by lra.
      replace ((ulps + 1) * epsilon * (1 - ulps * epsilon))
        with (ulps * epsilon + epsilon * (1 - (ulps + 1) * (ulps * epsilon))) by ring. nra. }
    apply Rmult_le_reg_r with (1 - k); [lra|]. apply Rle_trans with (1 := D).
    assert (k * Rabs m <= (ulps + 1) * epsilon * (1 - k) * Rabs m) by (apply Rmult_le_compat_r; assumption). nra.
  Qed.

  (* The ball around a computed value, for any f: change >= |f(x) - f(a)| and R >= change + own. *)
  Theorem around_contains (f : R -> R) a m x change R' : near (f a) m -> Rabs (f x - f a) <= change ->
    change + ((ulps + 1) * epsilon * Rabs m + 2 * tiny) <= R' -> contains {| mid := m; rad := R' |} (f x).
  Proof.
    intros N C Le. unfold contains. simpl.
    assert (G := contains_through m (f a) _ _ (f x) C (own_error _ _ N)). lra.
  Qed.

  (* |e^x - e^a| <= e^a (e^r - 1), and <= e^(a + r) *)
  Lemma exp_change b x : contains b x ->
    Rabs (exp x - exp (mid b)) <= exp (mid b) * (exp (rad b) - 1) /\ Rabs (exp x - exp (mid b)) <= exp (mid b + rad b).
  Proof.
    intros C. assert (Rn := rad_nonneg b x C). apply Rabs_within in C. set (a := mid b) in *. set (r := rad b) in *.
    assert (Up : exp x <= exp (a + r)) by (apply exp_le; lra).
    assert (Down : exp (a - r) <= exp x) by (apply exp_le; lra).
    assert (Middle : exp a <= exp (a + r)) by (apply exp_le; lra).
    assert (Pa := exp_pos a). assert (Pr := exp_pos r). assert (Px := exp_pos x).
    assert (Sum : exp (a + r) = exp a * exp r) by apply exp_plus.
    assert (Diff : exp (a - r) * exp r = exp a) by (rewrite <- exp_plus; f_equal; ring).
    assert (One : 1 <= exp r) by (rewrite <- exp_0; apply exp_le; lra).
    split; apply Rabs_within; split; try lra; nra.
  Qed.

  (* BallPrimitives.exp: m and grown and far computed values of e^a, e^r - 1 and e^next, next >= a + r; the change is
     the smaller of above(m) above(grown) and above(far). *)
  Theorem exp_contains b x m grown far next R' : contains b x ->
    near (exp (mid b)) m -> near (exp (rad b) - 1) grown -> near (exp next) far -> mid b + rad b <= next ->
    let up v := v * (1 + 2 * ulps * epsilon) + 2 * tiny in
    Rmin (up m * up grown) (up far) + ((ulps + 1) * epsilon * Rabs m + 2 * tiny) <= R' ->
    contains {| mid := m; rad := R' |} (exp x).
  Proof.
    intros C M G F Next up Le. destruct (exp_change b x C) as [First Second].
    apply around_contains with (a := mid b) (change := Rmin (up m * up grown) (up far)); [exact M | | exact Le].
    assert (One : 1 <= exp (rad b)).
    { rewrite <- exp_0. apply exp_le. apply (rad_nonneg b x C). }
    assert (Pa := exp_pos (mid b)). apply Rmin_glb.
    - apply Rle_trans with (1 := First). apply Rmult_le_compat; try lra; apply above; try assumption; lra.
    - apply Rle_trans with (1 := Second). apply Rle_trans with (exp next); [apply exp_le; exact Next|].
      apply above; [left; apply exp_pos | exact F].
  Qed.

  (* BallPrimitives.log, for 0 < low <= a - r: |log x - log a| <= r/low *)
  Theorem log_contains b x m low R' : contains b x -> near (ln (mid b)) m -> 0 < low <= mid b - rad b ->
    rad b / low + ((ulps + 1) * epsilon * Rabs m + 2 * tiny) <= R' -> contains {| mid := m; rad := R' |} (ln x).
  Proof.
    intros C M Low Le. apply around_contains with (a := mid b) (change := rad b / low); [exact M | | exact Le].
    assert (Rn := rad_nonneg b x C). apply Rabs_within in C.
    assert (Small : forall p q, 0 < p -> 0 < q -> ln q - ln p <= (q - p) / p).
    { intros p q P Q. rewrite <- ln_div by assumption. assert (E := exp_ineq1_le (ln (q / p))).
      rewrite exp_ln in E by now apply Rdiv_lt_0_compat. replace ((q - p) / p) with (q / p - 1) by (field; lra). lra. }
    assert (Bound : forall p d, low <= p -> d <= rad b -> d / p <= rad b / low).
    { intros p d P D. unfold Rdiv. apply Rle_trans with (rad b * / p).
      - apply Rmult_le_compat_r; [left; apply Rinv_0_lt_compat; lra | exact D].
      - apply Rmult_le_compat_l; [exact Rn | apply Rinv_le_contravar; lra]. }
    assert (A := Small (mid b) x ltac:(lra) ltac:(lra)). assert (B := Small x (mid b) ltac:(lra) ltac:(lra)).
    assert (A' := Bound (mid b) (x - mid b) ltac:(lra) ltac:(lra)).
    assert (B' := Bound x (mid b - x) ltac:(lra) ltac:(lra)).
    apply Rabs_within. lra.
  Qed.
End Computed.

(* float64: ELEMENTARY_ULPS = 4, epsilon = 2^-52, tiny = 2^-1022 satisfy what is asked of them. *)
Theorem float64_is_close : 1 <= 4 /\ 0 < / 2 ^ 52 /\ 8 * 4 * (4 + 1) * / 2 ^ 52 <= 1 /\ 0 <= / 2 ^ 1022.
Proof.
  split; [lra|]. split; [apply Rinv_0_lt_compat, pow_lt; lra|]. split; [lra|].
  left. apply Rinv_0_lt_compat, pow_lt. lra.
Qed.
