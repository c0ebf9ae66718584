(* The central difference has order 2 for sigmoid, tanh, SiLU and GELU, applied to the entries of a vector, and for
   softmax cross-entropy with label smoothing and penalty: at every point, along any direction v, for any cotangent g.

   Each has three derivatives, written out here, of which the third is differentiable. *)
Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers gradients.MlpGradient
  gradients.Activations gradients.CrossEntropy gradients.Softmax gradients.LinearAlgebra gradients.CentralDifference.
Open Scope R_scope.

Lemma derive_constant (a t : R) : is_derive (fun _ => a) t 0.
Proof. apply (is_derive_const (V := R_NormedModule)). Qed.
Lemma derive_argument (t : R) : is_derive (fun x => x) t 1.
Proof. apply (is_derive_id (K := R_AbsRing)). Qed.

Lemma normal_density_derivative z : is_derive normal_density z (- z * normal_density z).
Proof.
  assert (S2 : 0 < sqrt 2) by (apply sqrt_lt_R0; lra). assert (SP : 0 < sqrt PI) by (apply sqrt_lt_R0, PI_RGT_0).
  assert (0 < sqrt 2 * sqrt PI) by (apply Rmult_lt_0_compat; lra).
  unfold normal_density. auto_derive; [lra|]. unfold Rdiv. field. lra.
Qed.

(* Sums and products of functions whose derivatives are known. *)
Ltac derive_by rule :=
  lazymatch goal with
  | |- is_derive (fun _ => ?a) _ _ => apply derive_constant
  | |- is_derive (fun x => x) _ _ => apply derive_argument
  | |- is_derive (fun x => @?f x + @?g x) _ _ => apply (derive_add f g); derive_by rule
  | |- is_derive (fun x => @?f x - @?g x) _ _ => apply (derive_sub f g); derive_by rule
  | |- is_derive (fun x => @?f x * @?g x) _ _ => apply (derive_mul f g); derive_by rule
  | |- _ => apply rule
  end.
Ltac derive_with rule := eapply derive_to; [derive_by rule | cbv beta].

(* The central difference of <g, activation(z + t v)> at t = 0 approaches <backward(g), v> with order 2, for every
   cotangent g, point z and direction v. *)
Definition central_difference_approaches_backward (a : activation R) : Prop := forall n (g z v : nat -> R),
  has_order_2 (fun t => sum n (fun i => g i * fst (act_forward a (z i + t * v i)))) 0
    (sum n (fun i => act_backward a (snd (act_forward a (z i))) (g i) * v i)).

Definition sigma_1 z := sigma z * (1 - sigma z).
Definition sigma_2 z := sigma_1 z * (1 - 2 * sigma z).
Definition sigma_3 z := sigma_2 z * (1 - 2 * sigma z) - 2 * sigma_1 z * sigma_1 z.

Lemma sigma_derivatives : derivatives sigma sigma_1 sigma_2 sigma_3 /\ forall x, ex_derive sigma_3 x.
Proof.
  assert (D : forall x, is_derive sigma x (sigma x * (1 - sigma x))) by apply sigmoid_derivative.
  split; [split; [exact D | split]|]; intros x.
  - unfold sigma_1, sigma_2. derive_with D. unfold sigma_1. ring.
  - unfold sigma_2, sigma_3, sigma_1. derive_with D. unfold sigma_2, sigma_1. ring.
  - eexists. unfold sigma_3, sigma_2, sigma_1. derive_with D. reflexivity.
Qed.

Theorem sigmoid_central_difference : central_difference_approaches_backward sigmoid.
Proof.
  destruct sigma_derivatives as [D E]. intros n g z v. exact (elementwise_central_difference _ _ _ _ n g z v D E).
Qed.

Theorem silu_central_difference : central_difference_approaches_backward silu.
Proof.
  destruct sigma_derivatives as [[D1 [D2 D3]] E4]. intros n g z v.
  apply (elementwise_central_difference (fun u => u * sigma u) (fun u => sigma u * (1 + u * (1 - sigma u)))
           (fun u => 2 * sigma_1 u + u * sigma_2 u) (fun u => 3 * sigma_2 u + u * sigma_3 u)).
  - split; [exact silu_derivative | split]; intros x.
    + derive_with D1. unfold sigma_2, sigma_1. ring.
    + eapply derive_to.
      { apply derive_add; [apply derive_scale, D2 | apply derive_mul; [apply derive_argument | apply D3]]. }
      cbv beta. ring.
  - intros x. destruct (E4 x) as [d Hd]. eexists.
    apply derive_add; [apply derive_scale, D3 | apply derive_mul; [apply derive_argument | exact Hd]].
Qed.

Definition tanh_1 z := 1 - tanh z * tanh z.
Definition tanh_2 z := - 2 * tanh z * tanh_1 z.
Definition tanh_3 z := - 2 * tanh_1 z * tanh_1 z - 2 * tanh z * tanh_2 z.

Theorem tanh_central_difference : central_difference_approaches_backward hyperbolic_tangent.
Proof.
  assert (D : forall x, is_derive tanh x (1 - tanh x * tanh x)) by apply tanh_derivative. intros n g z v.
  apply (elementwise_central_difference tanh tanh_1 tanh_2 tanh_3); [split; [exact D | split]|]; intros x.
  - unfold tanh_1, tanh_2. derive_with D. unfold tanh_1. ring.
  - unfold tanh_2, tanh_3, tanh_1. derive_with D. unfold tanh_2, tanh_1. ring.
  - eexists. unfold tanh_3, tanh_2, tanh_1. derive_with D. reflexivity.
Qed.

Theorem gelu_central_difference : central_difference_approaches_backward gelu.
Proof.
  assert (D := normal_density_derivative). assert (P := normal_cdf_derivative). intros n g z v.
  apply (elementwise_central_difference (fun u => u * normal_cdf u) (fun u => normal_cdf u + u * normal_density u)
    (fun u => normal_density u * (2 - u * u)) (fun u => normal_density u * (u * u * u - 4 * u))).
  - split; [|split]; intros x.
    + derive_with P. ring.
    + eapply derive_to.
      { apply derive_add; [apply P | apply derive_mul; [apply derive_argument | apply D]]. }
      cbv beta. ring.
    + derive_with D. ring.
  - intros x. eexists. derive_with D. reflexivity.
Qed.

Section CrossEntropy.
  Context (e penalty : R) (C y : nat) (s d : nat -> R) (P : (0 < C)%nat).

  Let moved_logits (t : R) (c : nat) : R := s c + t * d c.
  Let average (w : nat -> R) (t : R) : R := mean C (softmax C (moved_logits t)) w.

  Lemma average_derivative w t :
    is_derive (average w) t (average (fun c => w c * d c) t - average w t * average d t).
  Proof.
    apply (derive_to _ t (sum C (fun c => softmax C (moved_logits t) c * (d c - average d t) * w c))).
    - apply is_derive_sum. intros c Hc.
      apply (derive_to _ t (softmax C (moved_logits t) c * (d c - average d t) * w c
                            + softmax C (moved_logits t) c * 0)); [|ring].
      apply derive_mul; [|apply derive_constant].
      apply (softmax_derivative C moved_logits d t c P Hc). intros k Hk. apply is_derive_line.
    - unfold average, mean. rewrite <- sum_scal_r, <- sum_minus. apply sum_ext. intros; ring.
  Qed.

  Let d2 (c : nat) : R := d c * d c.
  Let d3 (c : nat) : R := d2 c * d c.

  Lemma cross_entropy_of_example :
    has_order_2 (fun t => cross_entropy e penalty C y (moved_logits t)) 0
      (sum C (fun c => cross_entropy_gradient e penalty C y s c * d c)).
  Proof.
    set (q := sum C (fun c => smoothed e C y c * d c)). set (sd := sum C (fun c => s c * d c)). set (dd := square C d).
    assert (A := average_derivative).
    set (f1 := fun t => average d t - q + penalty * (sd + t * dd)).
    assert (F1 : forall t, sum C (fun c => cross_entropy_gradient e penalty C y (moved_logits t) c * d c) = f1 t).
    { intros t. unfold f1, q, sd, dd, square, average, mean, cross_entropy_gradient, moved_logits.
      rewrite <- !sum_scal, <- sum_plus, <- sum_scal, <- sum_minus, <- sum_plus. apply sum_ext. intros; ring. }
    assert (Start : sum C (fun c => cross_entropy_gradient e penalty C y s c * d c) = f1 0).
    { rewrite <- F1. apply sum_ext. intros c _. unfold cross_entropy_gradient, moved_logits.
      rewrite (softmax_ext C s (fun c => s c + 0 * d c)) by (intros; ring). ring. }
    rewrite Start.
    apply (central_difference_has_order_2 _ f1 (fun t => average d2 t - average d t * average d t + penalty * dd)
      (fun t => average d3 t - average d2 t * average d t
                - 2 * average d t * (average d2 t - average d t * average d t))).
    - split; [|split]; intros x.
      + rewrite <- F1. apply (cross_entropy_derivative e penalty C y moved_logits d x P).
        intros c _. apply is_derive_line.
      + unfold f1. derive_with A. unfold d2. ring.
      + derive_with A. unfold d3, d2. ring.
    - intros x. eexists. derive_with A. reflexivity.
  Qed.
End CrossEntropy.

(* The same of cross-entropy on a batch: the losses weighted by g, along any direction v of the logits s. *)
Theorem cross_entropy_central_difference e penalty B C y (g : nat -> R) (s v : nat -> nat -> R) : (0 < C)%nat ->
  has_order_2 (fun t => sum B (fun b => g b * cross_entropy e penalty C (y b) (fun c => s b c + t * v b c))) 0
    (sum B (fun b => g b * sum C (fun c => cross_entropy_gradient e penalty C (y b) (s b) c * v b c))).
Proof. intros P. apply has_order_2_sum. intros b _. now apply cross_entropy_of_example. Qed.
