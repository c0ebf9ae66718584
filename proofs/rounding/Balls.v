(* Balls of real numbers, and the rules of lean_mnist/enclosure/ball.py: sums, products, quotients, square roots.

   A ball has a midpoint and a radius and contains every x with |x - mid| <= rad. Each rule says: if the exact operands
   lie in their balls, m is the rounded result of the operation on the midpoints, and R is at least the formula that
   the code's comments state, then the exact result lies in the ball of m and R. That the radius which the code
   computes is at least that formula is in RaisedRadii.v. Source: Rump, Verification methods, Acta Numerica 19, 2010. *)
Require Import Reals Lra Lia Psatz.
From LeanMnist Require Import rounding.FloatingPoint.
Open Scope R_scope.

Record ball := { mid : R; rad : R }.
Definition contains (b : ball) (x : R) : Prop := Rabs (x - mid b) <= rad b.

(* Ball.exact: a tensor's numbers, with radius 0 *)
Theorem exact_contains x : contains {| mid := x; rad := 0 |} x.
Proof. unfold contains. simpl. replace (x - x) with 0 by ring. rewrite Rabs_R0. lra. Qed.

(* What is within e of a number within r of m is within e + r of m. *)
Lemma contains_through m v e r x : Rabs (x - v) <= r -> Rabs (m - v) <= e -> Rabs (x - m) <= r + e.
Proof.
  intros A B. replace (x - m) with ((x - v) + - (m - v)) by ring. apply Rle_trans with (1 := Rabs_triang _ _).
  rewrite Rabs_Ropp. lra.
Qed.

Lemma rad_nonneg b x : contains b x -> 0 <= rad b.
Proof. intros C. apply Rle_trans with (2 := C), Rabs_pos. Qed.

(* |x| <= |mid| + rad: Ball.magnitude *)
Theorem magnitude_bounds b x : contains b x -> Rabs x <= Rabs (mid b) + rad b.
Proof.
  intros C. unfold contains in C. replace x with ((x - mid b) + mid b) by ring.
  apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

(* |x| >= |mid| - rad, and |x| >= 0: Ball.mignitude *)
Theorem mignitude_bounds b x : contains b x -> Rmax (Rabs (mid b) - rad b) 0 <= Rabs x.
Proof.
  intros C. unfold contains in C. apply Rmax_lub; [|apply Rabs_pos].
  assert (T := Rabs_triang x (- (x - mid b))). rewrite Rabs_Ropp in T.
  replace (x + - (x - mid b)) with (mid b) in T by ring. lra.
Qed.

Section Rules.
  Variables u eta : R.
  Hypothesis U : 0 <= u.
  Variables (A B : ball) (x y m R' : R).
  Hypothesis InA : contains A x.
  Hypothesis InB : contains B y.
  Notation result := {| mid := m; rad := R' |}.
  Local Notation "| z |" := (Rabs z) (at level 35, z at level 60).

  (* Ball.__neg__ is exact. *)
  Theorem negation_contains : contains {| mid := - mid A; rad := rad A |} (- x).
  Proof. unfold contains in *. simpl. replace (- x - - mid A) with (- (x - mid A)) by ring. now rewrite Rabs_Ropp. Qed.

  (* Ball.__add__: r + s + u |m| <= R *)
  Theorem sum_contains : rounds u 0 (mid A + mid B) m -> rad A + rad B + u * |m| <= R' -> contains result (x + y).
  Proof.
    intros Rm Le. apply (rounds_of_result u 0 U) in Rm. unfold contains in *. simpl.
    apply Rle_trans with (2 := Le).
    assert (S : |x + y - (mid A + mid B)| <= rad A + rad B).
    { replace (x + y - (mid A + mid B)) with ((x - mid A) + (y - mid B)) by ring.
      apply Rle_trans with (1 := Rabs_triang _ _). lra. }
    assert (G := contains_through m (mid A + mid B) _ _ (x + y) S Rm). lra.
  Qed.

  (* Ball.__mul__: |a| s + r (|b| + s) + u |m| + eta <= R *)
  Lemma product_within : |x * y - mid A * mid B| <= |mid A| * rad B + rad A * (|mid B| + rad B).
  Proof.
    replace (x * y - mid A * mid B) with (mid A * (y - mid B) + (x - mid A) * y) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). rewrite !Rabs_mult.
    assert (M := magnitude_bounds B y InB). unfold contains in *.
    apply Rplus_le_compat; apply Rmult_le_compat; try apply Rabs_pos; try assumption. lra.
  Qed.

  Theorem product_contains : rounds u eta (mid A * mid B) m ->
    |mid A| * rad B + rad A * (|mid B| + rad B) + u * |m| + eta <= R' -> contains result (x * y).
  Proof.
    intros Rm Le. apply (rounds_of_result u eta U) in Rm. unfold contains. simpl. apply Rle_trans with (2 := Le).
    assert (G := contains_through m _ _ _ _ product_within Rm). lra.
  Qed.

  (* Ball.__mul__ where one factor is exactly 0: so is the product, with radius 0. *)
  Theorem product_with_zero : mid A = 0 -> rad A = 0 -> x * y = 0.
  Proof.
    intros Z R0. unfold contains in InA. rewrite Z, R0, Rminus_0_r in InA. assert (P := Rabs_pos x).
    destruct (Req_dec x 0) as [->|N]; [ring|]. apply Rabs_no_R0 in N. lra.
  Qed.

  (* Ball.__truediv__, for 0 < low <= |b| - s and q >= |a/b|: (r + q s)/low + u |m| + eta <= R *)
  Theorem quotient_contains low q : rounds u eta (mid A / mid B) m ->
    0 < low <= |mid B| - rad B -> |mid A / mid B| <= q ->
    (rad A + q * rad B) / low + u * |m| + eta <= R' -> contains result (x / y).
  Proof.
    intros Rm Low Q Le. apply (rounds_of_result u eta U) in Rm. unfold contains. simpl. apply Rle_trans with (2 := Le).
    assert (Y := mignitude_bounds B y InB). assert (Y' := Rmax_l (|mid B| - rad B) 0).
    assert (Rb := rad_nonneg B y InB). assert (Ra := rad_nonneg A x InA).
    assert (Yn : y <> 0) by (intros ->; rewrite Rabs_R0 in Y; lra).
    assert (Bn : mid B <> 0) by (intros E; rewrite E, Rabs_R0 in Low; lra).
    assert (S : |x / y - mid A / mid B| <= (rad A + q * rad B) / low).
    { replace (x / y - mid A / mid B) with (((x - mid A) + - (mid A / mid B) * (y - mid B)) / y) by (field; auto).
      unfold Rdiv at 1. rewrite Rabs_mult, Rabs_Rinv by exact Yn. unfold Rdiv at 2.
      apply Rmult_le_compat; [apply Rabs_pos | | | apply Rinv_le_contravar; lra].
      - left. apply Rinv_0_lt_compat. lra.
      - apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult, Rabs_Ropp. unfold contains in *.
        apply Rplus_le_compat; [exact InA|]. apply Rmult_le_compat; try apply Rabs_pos; assumption. }
    assert (G := contains_through m _ _ _ _ S Rm). lra.
  Qed.

  (* Ball.__pow__ with 1/2, for 0 <= r <= a, 0 < low <= sqrt a and a computed root off by at most e: r/low + e <= R *)
  Theorem square_root_contains low e : rad A <= mid A -> 0 < low <= sqrt (mid A) -> |m - sqrt (mid A)| <= e ->
    rad A / low + e <= R' -> contains result (sqrt x).
  Proof.
    intros Pos Low Root Le. unfold contains in *. simpl. apply Rle_trans with (2 := Le).
    apply contains_through with (v := sqrt (mid A)); [|exact Root].
    assert (Ra := rad_nonneg A x InA). assert (I := InA). apply Rabs_within in I.
    assert (X : 0 <= x) by lra. assert (M : 0 <= mid A) by lra. assert (P := sqrt_pos x).
    assert (Diff : (sqrt x - sqrt (mid A)) * (sqrt x + sqrt (mid A)) = x - mid A).
    { replace ((sqrt x - sqrt (mid A)) * (sqrt x + sqrt (mid A)))
        with (sqrt x * sqrt x - sqrt (mid A) * sqrt (mid A)) by ring. rewrite !sqrt_sqrt; lra. }
    assert (E : |sqrt x - sqrt (mid A)| * (sqrt x + sqrt (mid A)) <= rad A).
    { rewrite <- (Rabs_pos_eq (sqrt x + sqrt (mid A))) by lra. rewrite <- Rabs_mult, Diff. exact InA. }
    apply Rmult_le_reg_r with low; [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra.
    assert (Q := Rabs_pos (sqrt x - sqrt (mid A))). nra.
  Qed.
End Rules.

(* Ball.__sub__ is a sum with the negation. *)
Theorem difference_contains u A B x y m R' : 0 <= u -> contains A x -> contains B y ->
  rounds u 0 (mid A - mid B) m -> rad A + rad B + u * Rabs m <= R' -> contains {| mid := m; rad := R' |} (x - y).
Proof.
  intros U InA InB Rm Le.
  apply (sum_contains u U A {| mid := - mid B; rad := rad B |} x (- y)); auto. now apply negation_contains.
Qed.
