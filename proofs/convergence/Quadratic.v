(* Gradient descent and SGD on quadratics with diagonal curvature, f(theta) = 1/2 sum_i a_i (theta_i - c_i)^2.

   Such an f is L-smooth for L >= max a_i, mu-strongly convex for mu <= min a_i, and least wherever
   a_i (theta_i - c_i) = 0 for all i: where some a_i = 0, in more than one point. The rates of GradientDescent.v and
   StochasticGradient.v follow, and gradient descent has iterates in closed form. `verify` runs the optimizer that
   trains on such quadratics (lean_mnist/verification/statements/optimizer.py). *)
Require Import Reals Lra Lia Psatz List.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers generalization.Distribution
  convergence.Vectors convergence.Convexity convergence.GradientDescent convergence.StochasticGradient.
Open Scope R_scope.

Section Quadratic.
  Variables (n : nat) (a c : vec).
  Local Notation "|| v ||^2" := (norm2 n v%V) (at level 35, v at level 60).

  Definition quadratic (theta : vec) : R := sum n (fun i => a i / 2 * (theta i - c i) ^ 2).
  Definition quadratic_gradient (theta : vec) : vec := fun i => a i * (theta i - c i).

  Lemma quadratic_has_gradient : has_gradient n quadratic quadratic_gradient.
  Proof.
    intros x v. apply (is_derive_sum n (fun t i => a i / 2 * ((x + t * v)%V i - c i) ^ 2)). intros i _.
    unfold vplus, vscal, quadratic_gradient. auto_derive; [easy | field].
  Qed.

  Lemma quadratic_smooth L : (forall i, (i < n)%nat -> 0 <= a i <= L) -> smooth n L quadratic quadratic_gradient.
  Proof.
    intros A. split; [exact quadratic_has_gradient|]. intros x y. unfold norm2, inner. rewrite <- sum_scal.
    apply sum_le. intros i I. specialize (A i I). unfold vminus, quadratic_gradient.
    assert (S : a i * a i <= L * L) by nra. assert (P := Rle_0_sqr (x i - y i)). unfold Rsqr in P. nra.
  Qed.

  Lemma quadratic_strongly_convex mu : (forall i, (i < n)%nat -> mu <= a i) -> strongly_convex n mu quadratic.
  Proof.
    intros A x y t T. unfold quadratic, norm2, inner. rewrite <- !sum_scal, <- sum_plus, <- sum_minus.
    apply sum_le. intros i I. specialize (A i I). unfold vplus, vscal, vminus.
    assert (P : 0 <= (a i - mu) / 2 * (t * (1 - t) * (y i - x i) ^ 2)).
    { apply Rmult_le_pos; [lra|]. apply Rmult_le_pos; [apply Rmult_le_pos; lra | apply pow2_ge_0]. }
    lra.
  Qed.

  Lemma quadratic_convex : (forall i, (i < n)%nat -> 0 <= a i) -> convex quadratic.
  Proof. intros A x y t T. assert (S := quadratic_strongly_convex 0 A x y t T). lra. Qed.

  Lemma quadratic_least star : (forall i, (i < n)%nat -> 0 <= a i) ->
    (forall i, (i < n)%nat -> a i * (star i - c i) = 0) -> quadratic star = 0 /\ minimizer quadratic star.
  Proof.
    intros A Flat. assert (Z : quadratic star = 0).
    { unfold quadratic. transitivity (sum n (fun _ => 0)); [|apply sum_zero]. apply sum_ext. intros i I.
      replace (a i / 2 * (star i - c i) ^ 2) with (a i * (star i - c i) * ((star i - c i) / 2)) by field.
      rewrite (Flat i I). ring. }
    split; [exact Z|]. intros x. rewrite Z. apply sum_nonneg. intros i I. specialize (A i I).
    apply Rmult_le_pos; [lra | apply pow2_ge_0].
  Qed.

  (* theta_t = c + (1 - alpha a)^t (theta_0 - c), coordinate by coordinate *)
  Theorem gradient_descent_in_closed_form alpha theta t i :
    gradient_descent quadratic_gradient alpha theta t i = c i + (1 - alpha * a i) ^ t * (theta i - c i).
  Proof.
    induction t as [|t IH]; [simpl; ring|].
    simpl gradient_descent. cbv zeta. unfold vminus at 1. unfold vscal at 1. unfold quadratic_gradient at 2.
    rewrite IH. simpl. ring.
  Qed.

  (* With curvatures in [0, L], some of them 0 perhaps, 0 < alpha <= 1/L and t >= 1: whichever minimizer theta* is,
       f(theta_t) - f* <= ||theta_0 - theta*||^2/(2 alpha t), where f* = 0 *)
  Theorem gradient_descent_on_quadratic L alpha star theta t :
    0 < L -> (forall i, (i < n)%nat -> 0 <= a i <= L) -> (forall i, (i < n)%nat -> a i * (star i - c i) = 0) ->
    0 < alpha <= 1 / L -> (1 <= t)%nat ->
    quadratic (gradient_descent quadratic_gradient alpha theta t) <= ||theta - star||^2 / (2 * alpha * INR t).
  Proof.
    intros Lpos A Flat Step T.
    destruct (quadratic_least star ltac:(intros; apply A; assumption) Flat) as [Z Least].
    assert (G := gradient_descent_convex n quadratic quadratic_gradient L alpha star Lpos (quadratic_smooth L A) Least
      theta t (quadratic_convex ltac:(intros; apply A; assumption)) Step T).
    rewrite Z in G. lra.
  Qed.

  (* At each step the gradient plus independent noise of mean 0 and E ||noise||^2 <= sigma^2. *)
  Context {Seed : Type} (D : distribution Seed) (noise : Seed -> vec) (sigma2 : R).
  Hypothesis Centred : forall i, (i < n)%nat -> mean D noise i = 0.
  Hypothesis Bounded : E D (fun seed => ||noise seed||^2) <= sigma2.
  Definition noisy_gradient (theta : vec) (seed : Seed) : vec := (quadratic_gradient theta + noise seed)%V.

  Lemma noisy_gradient_unbiased : unbiased_bounded D n quadratic_gradient noisy_gradient sigma2.
  Proof.
    intros x. unfold noisy_gradient. split.
    - intros i I. unfold mean, vplus. rewrite E_plus, E_const. specialize (Centred i I). unfold mean in Centred.
      rewrite Centred. ring.
    - rewrite (E_ext D _ (fun seed => ||noise seed||^2)); [exact Bounded|]. intros seed. f_equal. same_vector.
  Qed.

  (* With curvatures in [mu, L] and 0 < alpha <= 2/(mu + L):
       E ||theta_t - c||^2 <= (1 - alpha mu)^t ||theta_0 - c||^2 + alpha sigma^2/mu *)
  Theorem sgd_on_quadratic mu L alpha theta t :
    0 < mu -> (0 < n)%nat -> (forall i, (i < n)%nat -> mu <= a i <= L) -> 0 < alpha <= 2 / (mu + L) ->
    expected D noisy_gradient (fun x => ||x - c||^2) (fun _ => alpha) theta t
    <= (1 - alpha * mu) ^ t * ||theta - c||^2 + alpha * sigma2 / mu.
  Proof.
    intros Mu N A Step. assert (ML := A 0%nat N).
    apply (sgd_strongly_convex D n quadratic quadratic_gradient L); try easy; try lra.
    - apply quadratic_smooth. intros i I. specialize (A i I). lra.
    - exact noisy_gradient_unbiased.
    - apply quadratic_strongly_convex. intros i I. now apply A.
    - apply quadratic_least; intros i I; specialize (A i I); [lra | ring].
  Qed.

  (* With curvatures in [0, L], some of them 0 perhaps, 0 < alpha <= 1/(2L) and t >= 1: whichever minimizer theta* is,
     the mean of E f(theta_k) over the t steps, where f* = 0, is at most ||theta_0 - theta*||^2/(alpha t) +
     alpha sigma^2. *)
  Theorem sgd_on_convex_quadratic L alpha star theta t :
    0 < L -> (forall i, (i < n)%nat -> 0 <= a i <= L) -> (forall i, (i < n)%nat -> a i * (star i - c i) = 0) ->
    0 < alpha <= 1 / (2 * L) -> (1 <= t)%nat ->
    sum t (fun k => expected D noisy_gradient quadratic (fun _ => alpha) theta k) / INR t
    <= ||theta - star||^2 / (alpha * INR t) + alpha * sigma2.
  Proof.
    intros Lpos A Flat Step T.
    destruct (quadratic_least star ltac:(intros; apply A; assumption) Flat) as [Z Least].
    assert (G := sgd_convex D n quadratic quadratic_gradient L noisy_gradient sigma2 Lpos (quadratic_smooth L A)
      noisy_gradient_unbiased star alpha theta t (quadratic_convex ltac:(intros; apply A; assumption)) Least Step T).
    rewrite Z in G. lra.
  Qed.
End Quadratic.
