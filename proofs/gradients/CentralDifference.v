(* The central difference (f(t + h) - f(t - h)) / 2h tends to the derivative with order 2.

   `central_difference_error`: the error is at most M h^2 / 6, where M bounds the third derivative between t - h and
   t + h. `has_order_2` is the consequence that a constant exists for all small steps; for a function that is applied to
   the entries of a vector it holds along any direction, `elementwise_central_difference`. *)
Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers gradients.Dense
  gradients.MlpGradient gradients.Activations gradients.CrossEntropy gradients.Softmax gradients.LinearAlgebra.
Open Scope R_scope.

(* f1, f2, f3 are the first three derivatives of f, everywhere. *)
Definition derivatives (f f1 f2 f3 : R -> R) : Prop :=
  (forall x, is_derive f x (f1 x)) /\ (forall x, is_derive f1 x (f2 x)) /\ (forall x, is_derive f2 x (f3 x)).

Lemma grows (f f' : R -> R) a b : a <= b -> (forall x, a <= x <= b -> is_derive f x (f' x)) ->
  (forall x, a <= x <= b -> 0 <= f' x) -> f a <= f b.
Proof.
  intros AB D P. destruct (MVT_gen f a b f') as [c [Hc E]]; rewrite ?Rmin_left, ?Rmax_right in * by lra.
  - intros x Hx. apply D. lra.
  - intros x Hx. apply derivable_continuous_pt. exists (f' x). apply is_derive_Reals, D. lra.
  - assert (0 <= f' c * (b - a)) by (apply Rmult_le_pos; [apply P; lra | lra]). lra.
Qed.

(* If |f'| <= g' on [0, h] and both functions are 0 at 0, then |f(h)| <= g(h). *)
Lemma dominated (f f' g g' : R -> R) h : 0 <= h -> f 0 = 0 -> g 0 = 0 ->
  (forall x, 0 <= x <= h -> is_derive f x (f' x)) -> (forall x, 0 <= x <= h -> is_derive g x (g' x)) ->
  (forall x, 0 <= x <= h -> Rabs (f' x) <= g' x) -> Rabs (f h) <= g h.
Proof.
  intros H F0 G0 DF DG B. apply Rabs_le. split.
  - assert (X : f 0 + g 0 <= f h + g h).
    { apply (grows (fun x => f x + g x) (fun x => f' x + g' x)); [exact H | intros; apply derive_add; auto|].
      intros x Hx. specialize (B x Hx). apply Rabs_le_between in B. lra. }
    lra.
  - assert (X : g 0 - f 0 <= g h - f h).
    { apply (grows (fun x => g x - f x) (fun x => g' x - f' x)); [exact H | intros; apply derive_sub; auto|].
      intros x Hx. specialize (B x Hx). apply Rabs_le_between in B. lra. }
    lra.
Qed.

Lemma derive_shift (f f' : R -> R) t x :
  (forall y, is_derive f y (f' y)) -> is_derive (fun h => f (t + h)) x (f' (t + x)).
Proof.
  intros D. apply (derive_to _ x (1 * f' (t + x))); [|ring].
  apply (is_derive_comp f (fun h => t + h)); [apply D|].
  apply (derive_to _ x (0 + 1)); [|ring]. apply derive_add; [apply (is_derive_const (V := R_NormedModule))|].
  apply (is_derive_id (K := R_AbsRing)).
Qed.

Lemma derive_mirror (f f' : R -> R) t x :
  (forall y, is_derive f y (f' y)) -> is_derive (fun h => f (t - h)) x (- f' (t - x)).
Proof.
  intros D. apply (derive_to _ x ((0 - 1) * f' (t - x))); [|ring].
  apply (is_derive_comp f (fun h => t - h)); [apply D|].
  apply derive_sub; [apply (is_derive_const (V := R_NormedModule)) | apply (is_derive_id (K := R_AbsRing))].
Qed.

Lemma derive_monomial c n x : is_derive (fun h => c * h ^ S n) x (c * (INR (S n) * x ^ n)).
Proof.
  apply derive_scale. apply (derive_to _ x (INR (S n) * 1 * x ^ n)); [|ring].
  apply (is_derive_pow (fun h => h) (S n) x 1), (is_derive_id (K := R_AbsRing)).
Qed.

Theorem central_difference_error f f1 f2 f3 t h M : derivatives f f1 f2 f3 -> 0 < h ->
  (forall x, t - h <= x <= t + h -> Rabs (f3 x) <= M) ->
  Rabs ((f (t + h) - f (t - h)) / (2 * h) - f1 t) <= M * h ^ 2 / 6.
Proof.
  intros [D1 [D2 D3]] H B.
  assert (E2 : forall x, 0 <= x <= h -> Rabs (f2 (t + x) - f2 (t - x)) <= 2 * M * x).
  { intros x Hx. replace (2 * M * x) with (2 * M * x ^ 1) by ring.
    apply (dominated (fun x => f2 (t + x) - f2 (t - x)) (fun x => f3 (t + x) - - f3 (t - x))
             (fun x => 2 * M * x ^ 1) (fun x => 2 * M * (INR 1 * x ^ 0))); [lra | | ring | | |].
    - rewrite Rplus_0_r, Rminus_0_r. ring.
    - intros y _. apply derive_sub; [now apply derive_shift | now apply derive_mirror].
    - intros y _. apply derive_monomial.
    - intros y Hy. assert (P := B (t + y) ltac:(lra)). assert (N := B (t - y) ltac:(lra)).
      apply Rabs_le_between in P. apply Rabs_le_between in N. simpl. apply Rabs_le. lra. }
  assert (E1 : forall x, 0 <= x <= h -> Rabs (f1 (t + x) + f1 (t - x) - 2 * f1 t) <= M * x ^ 2).
  { intros x Hx.
    apply (dominated (fun x => f1 (t + x) + f1 (t - x) - 2 * f1 t) (fun x => f2 (t + x) + - f2 (t - x) - 0)
             (fun x => M * x ^ 2) (fun x => M * (INR 2 * x ^ 1))); [lra | | ring | | |].
    - rewrite Rplus_0_r, Rminus_0_r. ring.
    - intros y _. apply derive_sub; [|apply (is_derive_const (V := R_NormedModule))].
      apply derive_add; [now apply derive_shift | now apply derive_mirror].
    - intros y _. apply derive_monomial.
    - intros y Hy. specialize (E2 y ltac:(lra)). simpl. replace (M * ((1 + 1) * (y * 1))) with (2 * M * y) by ring.
      replace (f2 (t + y) + - f2 (t - y) - 0) with (f2 (t + y) - f2 (t - y)) by ring. exact E2. }
  assert (E0 : Rabs (f (t + h) - f (t - h) - 2 * f1 t * h ^ 1) <= M / 3 * h ^ 3).
  { apply (dominated (fun x => f (t + x) - f (t - x) - 2 * f1 t * x ^ 1)
             (fun x => f1 (t + x) - - f1 (t - x) - 2 * f1 t * (INR 1 * x ^ 0))
             (fun x => M / 3 * x ^ 3) (fun x => M / 3 * (INR 3 * x ^ 2))); [lra | | ring | | |].
    - rewrite Rplus_0_r, Rminus_0_r. ring.
    - intros y _. apply derive_sub; [|apply derive_monomial].
      apply derive_sub; [now apply derive_shift | now apply derive_mirror].
    - intros y _. apply derive_monomial.
    - intros y Hy. specialize (E1 y Hy). replace (M / 3 * (INR 3 * y ^ 2)) with (M * y ^ 2) by (simpl; field).
      replace (f1 (t + y) - - f1 (t - y) - 2 * f1 t * (INR 1 * y ^ 0)) with (f1 (t + y) + f1 (t - y) - 2 * f1 t)
        by (simpl; ring). exact E1. }
  replace ((f (t + h) - f (t - h)) / (2 * h) - f1 t) with ((f (t + h) - f (t - h) - 2 * f1 t * h ^ 1) * / (2 * h))
    by (field; lra).
  assert (I : 0 < / (2 * h)) by (apply Rinv_0_lt_compat; lra).
  rewrite Rabs_mult, (Rabs_pos_eq (/ (2 * h))) by lra.
  replace (M * h ^ 2 / 6) with (M / 3 * h ^ 3 * / (2 * h)) by (field; lra).
  apply Rmult_le_compat_r; [lra | exact E0].
Qed.

(* Some constant K bounds the error of every step of at most 1 by K h^2. *)
Definition has_order_2 (f : R -> R) (t d : R) : Prop :=
  exists K, forall h, 0 < h <= 1 -> Rabs ((f (t + h) - f (t - h)) / (2 * h) - d) <= K * h ^ 2.

Theorem central_difference_has_order_2 f f1 f2 f3 t :
  derivatives f f1 f2 f3 -> (forall x, ex_derive f3 x) -> has_order_2 f t (f1 t).
Proof.
  intros D C. destruct (continuity_ab_maj (fun x => Rabs (f3 x)) (t - 1) (t + 1)) as [m [Hm _]]; [lra| |].
  { intros x _. apply (continuity_pt_comp f3 Rabs); [|apply Rcontinuity_abs].
    apply continuity_pt_filterlim, (ex_derive_continuous f3), C. }
  exists (Rabs (f3 m) / 6). intros h Hh. replace (Rabs (f3 m) / 6 * h ^ 2) with (Rabs (f3 m) * h ^ 2 / 6) by field.
  apply (central_difference_error f f1 f2 f3); [exact D | lra|]. intros x Hx. apply Hm. lra.
Qed.

(* A linear combination of functions that have order 2 has it too. *)
Lemma has_order_2_sum n c (f : nat -> R -> R) t d : (forall i, (i < n)%nat -> has_order_2 (f i) t (d i)) ->
  has_order_2 (fun u => sum n (fun i => c i * f i u)) t (sum n (fun i => c i * d i)).
Proof.
  induction n as [|n IH]; intros F.
  - exists 0. intros h Hh. change (Rabs ((0 - 0) / (2 * h) - 0) <= 0 * h ^ 2).
    replace ((0 - 0) / (2 * h) - 0) with 0 by (field; lra). rewrite Rabs_R0. lra.
  - destruct IH as [K HK]; [intros; apply F; lia|]. destruct (F n ltac:(lia)) as [M HM].
    exists (K + Rabs (c n) * M). intros h Hh. specialize (HK h Hh). specialize (HM h Hh). rewrite !sum_S.
    set (s u := sum n (fun i => c i * f i u)). set (s' := sum n (fun i => c i * d i)).
    change (Rabs ((s (t + h) - s (t - h)) / (2 * h) - s') <= K * h ^ 2) in HK.
    change (Rabs ((s (t + h) + c n * f n (t + h) - (s (t - h) + c n * f n (t - h))) / (2 * h) - (s' + c n * d n))
            <= (K + Rabs (c n) * M) * h ^ 2).
    replace ((s (t + h) + c n * f n (t + h) - (s (t - h) + c n * f n (t - h))) / (2 * h) - (s' + c n * d n))
      with ((s (t + h) - s (t - h)) / (2 * h) - s' + c n * ((f n (t + h) - f n (t - h)) / (2 * h) - d n))
      by (field; lra).
    eapply Rle_trans; [apply Rabs_triang|]. rewrite Rabs_mult.
    apply (Rmult_le_compat_l (Rabs (c n))) in HM; [lra | apply Rabs_pos].
Qed.

Lemma derive_along f f' z d t : (forall x, is_derive f x (f' x)) ->
  is_derive (fun u => f (z + u * d)) t (d * f' (z + t * d)).
Proof. intros D. apply (is_derive_comp f (fun u => z + u * d)); [apply D | apply is_derive_line]. Qed.

(* A function of the entries of a vector, <g, f(z + t v)> with any cotangent g along any direction v: its central
   difference approaches <g f'(z), v> with order 2. *)
Theorem elementwise_central_difference f f1 f2 f3 n (g z v : nat -> R) :
  derivatives f f1 f2 f3 -> (forall x, ex_derive f3 x) ->
  has_order_2 (fun t => sum n (fun i => g i * f (z i + t * v i))) 0 (sum n (fun i => g i * f1 (z i) * v i)).
Proof.
  intros [D1 [D2 D3]] C. rewrite (sum_ext n _ (fun i => g i * (v i * f1 (z i + 0 * v i)))).
  2:{ intros i _. replace (z i + 0 * v i) with (z i) by ring. ring. }
  apply has_order_2_sum. intros i _.
  apply (central_difference_has_order_2 _ (fun t => v i * f1 (z i + t * v i))
    (fun t => v i * (v i * f2 (z i + t * v i))) (fun t => v i * (v i * (v i * f3 (z i + t * v i))))).
  - split; [|split]; intros t.
    + now apply derive_along.
    + apply derive_scale. now apply derive_along.
    + do 2 apply derive_scale. now apply derive_along.
  - intros t. destruct (C (z i + t * v i)) as [d Hd]. eexists. do 3 apply derive_scale.
    apply (is_derive_comp f3 (fun u => z i + u * v i)); [exact Hd | apply is_derive_line].
Qed.
