(* The hull of two balls, and a choice by the sign of a number that is only enclosed: ReLU, leaky ReLU, |x|.

   Ball.hull and BallPrimitives.where_nonpositive of lean_mnist/enclosure: where the ball of the condition lies on one
   side of 0, the result is that side's ball, and where it does not, the hull of both. Comparisons do not round. *)
Require Import Reals Lra Lia Psatz.
From LeanMnist Require Import rounding.FloatingPoint rounding.Balls.
Open Scope R_scope.

(* hull: whatever its midpoint m is, a radius of at least |mid - m| + rad for both contains all that either contains.
   (The code rounds |mid - m| and the sum upwards.) *)
Definition around_both (m : R) (first second : ball) (R' : R) : Prop :=
  Rabs (mid first - m) + rad first <= R' /\ Rabs (mid second - m) + rad second <= R'.

Theorem hull_contains m first second R' x :
  around_both m first second R' -> contains first x \/ contains second x -> contains {| mid := m; rad := R' |} x.
Proof.
  intros [F S] [C|C]; unfold contains in *; simpl.
  - apply Rle_trans with (2 := F). rewrite <- Rabs_Ropp, (Rabs_minus_sym (mid first)).
    replace (- (x - m)) with ((m - mid first) + - (x - mid first)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_Ropp. lra.
  - apply Rle_trans with (2 := S). rewrite <- Rabs_Ropp, (Rabs_minus_sym (mid second)).
    replace (- (x - m)) with ((m - mid second) + - (x - mid second)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_Ropp. lra.
Qed.

(* Ball.is_nonpositive: mid <= -rad; Ball.is_positive: mid > rad *)
Definition is_nonpositive (b : ball) : bool := if Rle_dec (mid b) (- rad b) then true else false.
Definition is_positive (b : ball) : bool := if Rlt_dec (rad b) (mid b) then true else false.

Theorem decided_signs b x : contains b x ->
  (is_nonpositive b = true -> x <= 0) /\ (is_positive b = true -> 0 < x).
Proof.
  intros C. apply Rabs_within in C. unfold is_nonpositive, is_positive.
  split; [destruct (Rle_dec _ _) | destruct (Rlt_dec _ _)]; try discriminate; intros _; lra.
Qed.

(* BallPrimitives.where_nonpositive; [both] is the hull of the two branches. *)
Definition where_nonpositive (condition then_ otherwise both : ball) : ball :=
  if is_nonpositive condition then then_ else if is_positive condition then otherwise else both.

Definition where_nonpositive_exact (c t o : R) : R := if Rle_dec c 0 then t else o.

(* The branch that the exact condition takes lies in the ball that the enclosed condition takes. *)
Theorem where_nonpositive_contains condition then_ otherwise m R' c t o :
  contains condition c -> contains then_ t -> contains otherwise o -> around_both m then_ otherwise R' ->
  contains (where_nonpositive condition then_ otherwise {| mid := m; rad := R' |}) (where_nonpositive_exact c t o).
Proof.
  intros C T O Both. destruct (decided_signs condition c C) as [N P].
  unfold where_nonpositive, where_nonpositive_exact.
  destruct (is_nonpositive condition); [specialize (N eq_refl); destruct (Rle_dec c 0); [exact T | lra]|].
  destruct (is_positive condition); [specialize (P eq_refl); destruct (Rle_dec c 0); [lra | exact O]|].
  apply (hull_contains m then_ otherwise); [exact Both|]. destruct (Rle_dec c 0); [now left | now right].
Qed.

Definition zero_ball : ball := {| mid := 0; rad := 0 |}.

(* chainrule's relu_forward on balls, where_nonpositive(z, 0, z), encloses max(z, 0). *)
Theorem relu_contains z m R' x : contains z x -> around_both m zero_ball z R' ->
  contains (where_nonpositive z zero_ball z {| mid := m; rad := R' |}) (Rmax x 0).
Proof.
  intros Z Both.
  replace (Rmax x 0) with (where_nonpositive_exact x 0 x).
  - now apply where_nonpositive_contains; try apply exact_contains.
  - unfold where_nonpositive_exact, Rmax. destruct (Rle_dec x 0), (Rle_dec x 0); lra.
Qed.

(* relu_backward on balls, where_nonpositive(h, 0, d_h): it lets d_h through where h > 0, and gives 0 where h <= 0. *)
Theorem relu_backward_contains h d m R' x g : contains h x -> contains d g -> around_both m zero_ball d R' ->
  contains (where_nonpositive h zero_ball d {| mid := m; rad := R' |}) (if Rle_dec x 0 then 0 else g).
Proof. intros H D Both. now apply (where_nonpositive_contains h zero_ball d); try apply exact_contains. Qed.

(* |x| lies between the mignitude and the magnitude, and so in the ball around |mid| of the same radius. *)
Theorem absolute_value_contains b x : contains b x -> contains {| mid := Rabs (mid b); rad := rad b |} (Rabs x).
Proof. unfold contains. simpl. intros C. apply Rle_trans with (2 := C). apply Rabs_triang_inv2. Qed.
