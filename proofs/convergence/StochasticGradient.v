(* Stochastic gradient descent, theta' = theta - alpha g, where g is an unbiased gradient of bounded variance.

   On strongly convex functions E ||theta_t - theta*||^2 <= (1 - alpha mu)^t ||theta_0 - theta*||^2 + alpha sigma^2/mu;
   on convex ones the mean over t steps of E f(theta_k) - f* is at most ||theta_0 - theta*||^2/(alpha t) +
   alpha sigma^2; on smooth ones that of E ||gradient||^2 is at most 2 (f(theta_0) - f_min)/(alpha t) + alpha L sigma^2.
   Source: Bottou, Curtis and Nocedal, Optimization methods for large-scale machine learning, SIAM Review 60, 2018,
   section 4. The seeds are independent draws from one distribution of finite support; arithmetic is exact. *)
Require Import Reals Lra Lia Psatz List.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers generalization.Distribution
  convergence.Vectors convergence.Convexity convergence.GradientDescent.
Open Scope R_scope.

Section StochasticGradient.
  Context {Seed : Type} (D : distribution Seed) (n : nat).
  Variables (f : vec -> R) (gradient : vec -> vec) (L : R) (sampled : vec -> Seed -> vec) (sigma2 : R).
  Local Notation "<< u , v >>" := (inner n u v).
  Local Notation "|| v ||^2" := (norm2 n v%V) (at level 35, v at level 60).

  (* What a step takes for the gradient at theta, [sampled theta seed], has mean gradient(theta) and variance at most
     sigma^2: E ||sampled - gradient||^2 <= sigma^2. A minibatch of independent examples is one case. *)
  Definition unbiased_bounded : Prop := forall theta : vec,
    (forall i, (i < n)%nat -> mean D (sampled theta) i = gradient theta i)
    /\ E D (fun seed => ||sampled theta seed - gradient theta||^2) <= sigma2.

  (* theta_t, where t is the number of seeds, first seed first; the k-th step has the size steps k. *)
  Fixpoint sgd (steps : nat -> R) (theta : vec) (seeds : list Seed) : vec :=
    match seeds with
    | [] => theta
    | seed :: later => sgd (fun k => steps (S k)) (theta - steps 0%nat * sampled theta seed)%V later
    end.

  Lemma sgd_steps_ext steps others : (forall k, steps k = others k) -> forall theta seeds,
    sgd steps theta seeds = sgd others theta seeds.
  Proof.
    intros Same theta seeds. revert steps others Same theta.
    induction seeds as [|seed later IH]; intros; simpl; [reflexivity|]. rewrite Same. apply IH. auto.
  Qed.

  (* E h(theta_t), over the seeds of the t steps *)
  Definition expected (h : vec -> R) (steps : nat -> R) (theta : vec) (t : nat) : R :=
    E (draws D t) (fun seeds => h (sgd steps theta seeds)).

  Lemma expected_0 h steps theta : expected h steps theta 0 = h theta.
  Proof. apply E_draws_0. Qed.

  Lemma expected_S h steps theta t :
    expected h steps theta (S t)
    = E D (fun seed => expected h (fun k => steps (S k)) (theta - steps 0%nat * sampled theta seed)%V t).
  Proof. apply E_draws_S. Qed.

  (* The same with the last step taken apart instead of the first. *)
  Lemma expected_last h t : forall steps theta,
    expected h steps theta (S t)
    = expected (fun x => E D (fun seed => h (x - steps t * sampled x seed)%V)) steps theta t.
  Proof.
    induction t as [|t IH]; intros steps theta; rewrite expected_S.
    - rewrite expected_0. apply E_ext. intros. apply expected_0.
    - rewrite expected_S. apply E_ext. intros seed. apply IH.
  Qed.

  Hypothesis Lpos : 0 < L.
  Hypothesis Smooth : smooth n L f gradient.
  Hypothesis Noise : unbiased_bounded.

  Lemma sigma2_nonneg : 0 <= sigma2.
  Proof.
    destruct (Noise (fun _ => 0)) as [_ V]. apply Rle_trans with (2 := V). rewrite <- (E_const D 0). apply E_le.
    intros. apply norm2_nonneg.
  Qed.

  Lemma E_sampled_along theta v : E D (fun seed => << sampled theta seed, v >>) = << gradient theta, v >>.
  Proof.
    rewrite (E_ext D _ (fun seed => << v, sampled theta seed >>)) by (intros; apply inner_sym).
    rewrite E_inner, inner_sym. apply sum_ext. intros i I. now rewrite (proj1 (Noise theta)).
  Qed.

  Lemma E_sampled_norm2 theta : E D (fun seed => ||sampled theta seed||^2) <= ||gradient theta||^2 + sigma2.
  Proof.
    apply Rle_trans with (E D (fun seed => ||sampled theta seed - gradient theta||^2) + ||gradient theta||^2);
      [|destruct (Noise theta); lra].
    rewrite (E_ext D (fun seed => ||sampled theta seed - gradient theta||^2)
      (fun seed => ||sampled theta seed||^2 + -2 * << sampled theta seed, gradient theta >> + ||gradient theta||^2)).
    { rewrite !E_plus, E_scal, E_const, E_sampled_along. unfold norm2. lra. }
    intros seed. replace (sampled theta seed - gradient theta)%V with (sampled theta seed - 1 * gradient theta)%V
      by same_vector. rewrite norm2_minus. ring.
  Qed.

  (* ---------- one step ---------- *)

  Lemma E_distance_after star theta alpha :
    E D (fun seed => ||theta - alpha * sampled theta seed - star||^2)
    <= ||theta - star||^2 - 2 * alpha * << gradient theta, (theta - star)%V >>
       + alpha ^ 2 * (||gradient theta||^2 + sigma2).
  Proof.
    rewrite (E_ext D _ (fun seed => ||theta - star||^2 + -2 * alpha * << sampled theta seed, (theta - star)%V >>
      + alpha ^ 2 * ||sampled theta seed||^2)) by (intros; rewrite distance_after; ring).
    rewrite !E_plus, !E_scal, E_const, E_sampled_along. assert (V := E_sampled_norm2 theta). nra.
  Qed.

  Lemma E_value_after theta alpha :
    E D (fun seed => f (theta - alpha * sampled theta seed)%V)
    <= f theta - alpha * ||gradient theta||^2 + alpha ^ 2 * L / 2 * (||gradient theta||^2 + sigma2).
  Proof.
    destruct Smooth as [Gradient Lipschitz].
    apply Rle_trans with (E D (fun seed => f theta + - alpha * << sampled theta seed, gradient theta >>
      + alpha ^ 2 * L / 2 * ||sampled theta seed||^2)).
    - apply E_le. intros seed. assert (S := descent_of_a_step n f gradient Gradient L Lpos Lipschitz theta
        (sampled theta seed) alpha). rewrite inner_sym in S. lra.
    - rewrite !E_plus, !E_scal, E_const, E_sampled_along. fold (||gradient theta||^2).
      assert (V := E_sampled_norm2 theta).
      assert (0 <= alpha ^ 2 * L / 2) by (assert (0 <= alpha ^ 2) by nra; nra). nra.
  Qed.

  (* ---------- strongly convex functions ---------- *)

  Lemma E_strongly_convex_step mu star theta alpha :
    strongly_convex n mu f -> minimizer f star -> 0 < mu <= L -> 0 < alpha <= 2 / (mu + L) ->
    E D (fun seed => ||theta - alpha * sampled theta seed - star||^2)
    <= (1 - alpha * mu) * ||theta - star||^2 + alpha ^ 2 * sigma2.
  Proof.
    intros Convex Least Mu A. assert (S := strongly_convex_step n f gradient L alpha star Lpos Smooth Least mu theta
      Convex Mu A). assert (N := norm2_nonneg n (theta - star)%V). assert (X := E_distance_after star theta alpha).
    assert (Q : 0 <= 1 - alpha * mu <= 1) by now apply (contraction_range L).
    assert ((1 - alpha * mu) ^ 2 * ||theta - star||^2 <= (1 - alpha * mu) * ||theta - star||^2)
      by (apply Rmult_le_compat_r; nra). lra.
  Qed.

  (* For mu-strongly convex, L-smooth f with minimizer theta*, and 0 < alpha <= 2/(mu + L):
       E ||theta_t - theta*||^2 <= (1 - alpha mu)^t ||theta_0 - theta*||^2 + alpha sigma^2 / mu *)
  Theorem sgd_strongly_convex mu star alpha theta t :
    strongly_convex n mu f -> minimizer f star -> 0 < mu <= L -> 0 < alpha <= 2 / (mu + L) ->
    expected (fun x => ||x - star||^2) (fun _ => alpha) theta t
    <= (1 - alpha * mu) ^ t * ||theta - star||^2 + alpha * sigma2 / mu.
  Proof.
    intros Convex Least Mu A. assert (Q : 0 <= 1 - alpha * mu <= 1) by now apply (contraction_range L).
    assert (V := sigma2_nonneg).
    (* (1 - q^t) alpha sigma^2/mu is the noise of t steps. *)
    assert (G : forall t theta, expected (fun x => ||x - star||^2) (fun _ => alpha) theta t
      <= (1 - alpha * mu) ^ t * ||theta - star||^2 + (1 - (1 - alpha * mu) ^ t) * (alpha * sigma2 / mu)).
    { clear theta t. induction t as [|t IH]; intros theta; [rewrite expected_0; simpl; lra|].
      rewrite expected_S. set (q := (1 - alpha * mu) ^ t) in *.
      apply Rle_trans with (E D (fun seed => q * ||theta - alpha * sampled theta seed - star||^2
        + (1 - q) * (alpha * sigma2 / mu))).
      { apply E_le. intros seed. apply IH. }
      rewrite E_plus, E_scal, E_const.
      assert (Next := E_strongly_convex_step mu star theta alpha Convex Least Mu A).
      assert (0 <= q) by (apply pow_le; lra).
      apply Rmult_le_compat_l with (r := q) in Next; [|assumption].
      replace ((1 - alpha * mu) ^ S t) with ((1 - alpha * mu) * q) by reflexivity.
      replace ((1 - (1 - alpha * mu) * q) * (alpha * sigma2 / mu))
        with ((1 - q) * (alpha * sigma2 / mu) + q * (alpha ^ 2 * sigma2)) by (field; lra).
      lra. }
    apply Rle_trans with (1 := G t theta). assert (0 <= (1 - alpha * mu) ^ t) by (apply pow_le; lra).
    assert (0 <= alpha * sigma2 / mu) by (apply Rmult_le_pos; [nra | left; apply Rinv_0_lt_compat; lra]). nra.
  Qed.

  (* ---------- means over the iterates ---------- *)

  Lemma expected_of_first steps theta h t :
    sum (S t) (fun k => expected h steps theta k)
    = h theta + E D (fun seed => sum t (fun k => expected h (fun k => steps (S k))
        (theta - steps 0%nat * sampled theta seed)%V k)).
  Proof.
    rewrite E_sum_below. induction t as [|t IH].
    - rewrite sum_S, expected_0. simpl. real. ring.
    - rewrite sum_S, IH, expected_S, sum_S. ring.
  Qed.

  (* What one step gains of a potential, all steps gain. *)
  Lemma sum_of_gains (h potential : vec -> R) alpha noise :
    (forall theta, alpha * h theta + E D (fun seed => potential (theta - alpha * sampled theta seed)%V)
                   <= potential theta + noise) ->
    (forall theta, 0 <= potential theta) ->
    forall t theta, alpha * sum t (fun k => expected h (fun _ => alpha) theta k) <= potential theta + INR t * noise.
  Proof.
    intros Step Pos. induction t as [|t IH]; intros theta.
    - simpl. real. specialize (Pos theta). lra.
    - rewrite expected_of_first, S_INR, Rmult_plus_distr_l, <- E_scal.
      assert (X : E D (fun seed => alpha * sum t (fun k => expected h (fun _ => alpha)
          (theta - alpha * sampled theta seed)%V k))
        <= E D (fun seed => potential (theta - alpha * sampled theta seed)%V + INR t * noise)).
      { apply E_le. intros seed. apply IH. }
      rewrite E_plus, E_const in X. specialize (Step theta). lra.
  Qed.

  (* For convex, L-smooth f with minimizer theta*, 0 < alpha <= 1/(2L) and t >= 1, the mean of E f(theta_k) over the
     iterates theta_0, ..., theta_(t-1) is at most f* + ||theta_0 - theta*||^2/(alpha t) + alpha sigma^2. *)
  Theorem sgd_convex star alpha theta t :
    convex f -> minimizer f star -> 0 < alpha <= 1 / (2 * L) -> (1 <= t)%nat ->
    sum t (fun k => expected f (fun _ => alpha) theta k) / INR t - f star
    <= ||theta - star||^2 / (alpha * INR t) + alpha * sigma2.
  Proof.
    intros Convex Least A T. assert (Tpos : 0 < INR t) by (apply (lt_INR 0); lia).
    assert (AL : 2 * alpha * L <= 1).
    { apply Rmult_le_reg_r with (/ (2 * L)); [apply Rinv_0_lt_compat; lra|].
      replace (2 * alpha * L * / (2 * L)) with alpha by (field; lra). lra. }
    destruct Smooth as [Gradient Lipschitz].
    assert (G := sum_of_gains (fun x => f x - f star) (fun x => ||x - star||^2) alpha (alpha ^ 2 * sigma2)).
    assert (Sum : sum t (fun k => expected (fun x => f x - f star) (fun _ => alpha) theta k)
      = sum t (fun k => expected f (fun _ => alpha) theta k) - INR t * f star).
    { rewrite <- sum_const, <- sum_minus. apply sum_ext. intros k _. unfold expected.
      now rewrite E_minus, E_const. }
    assert (Le : alpha * sum t (fun k => expected (fun x => f x - f star) (fun _ => alpha) theta k)
      <= ||theta - star||^2 + INR t * (alpha ^ 2 * sigma2)).
    { apply G; [|intros; apply norm2_nonneg]. intros x. assert (X := E_distance_after star x alpha).
      assert (First := strong_convexity_from_below n f gradient Gradient 0
        (convex_is_strongly_convex_0 n f Convex) x star).
      replace (star - x)%V with (-1 * (x - star))%V in First by same_vector. rewrite inner_scal_r in First.
      assert (Gap := gradient_bounded_by_gap n f gradient Gradient L Lpos Lipschitz x star Least).
      specialize (Least x). set (gap := f x - f star) in *. assert (P : 0 <= gap) by (unfold gap; lra).
      assert (S1 : 2 * alpha * gap <= 2 * alpha * << gradient x, (x - star)%V >>)
        by (apply Rmult_le_compat_l; unfold gap; lra).
      assert (S2 : alpha ^ 2 * ||gradient x||^2 <= alpha ^ 2 * (2 * L * gap))
        by (apply Rmult_le_compat_l; [apply pow2_ge_0 | exact Gap]).
      assert (S3 : alpha * gap * (2 * alpha * L) <= alpha * gap * 1).
      { apply Rmult_le_compat_l; [apply Rmult_le_pos; lra | exact AL]. }
      lra. }
    rewrite Sum in Le. clear Sum G. set (total := sum t _) in *. apply Rmult_le_reg_l with (alpha * INR t); [nra|].
    replace (alpha * INR t * (total / INR t - f star)) with (alpha * (total - INR t * f star)) by (field; lra).
    replace (alpha * INR t * (||theta - star||^2 / (alpha * INR t) + alpha * sigma2))
      with (||theta - star||^2 + INR t * (alpha ^ 2 * sigma2)) by (field; lra).
    exact Le.
  Qed.

  (* For L-smooth f, convex or not, that is nowhere below f_min, 0 < alpha <= 1/L and T >= 1, the mean of
     E ||gradient(theta_k)||^2 over k < T is at most 2 (f(theta_0) - f_min)/(alpha T) + alpha L sigma^2. *)
  Theorem sgd_stationary f_min alpha theta T :
    (forall x, f_min <= f x) -> 0 < alpha <= 1 / L -> (1 <= T)%nat ->
    sum T (fun k => expected (fun x => ||gradient x||^2) (fun _ => alpha) theta k) / INR T
    <= 2 * (f theta - f_min) / (alpha * INR T) + alpha * L * sigma2.
  Proof.
    intros Below A T1. assert (Tpos : 0 < INR T) by (apply (lt_INR 0); lia).
    assert (AL := step_at_most_1_over_L L alpha Lpos A).
    assert (Le : alpha * sum T (fun k => expected (fun x => ||gradient x||^2) (fun _ => alpha) theta k)
      <= 2 * (f theta - f_min) + INR T * (alpha ^ 2 * L * sigma2)).
    { apply (sum_of_gains (fun x => ||gradient x||^2) (fun x => 2 * (f x - f_min))).
      - intros x. rewrite E_scal, E_minus, E_const. assert (X := E_value_after x alpha).
        assert (Y : alpha * ||gradient x||^2 * (alpha * L) <= alpha * ||gradient x||^2 * 1).
        { apply Rmult_le_compat_l; [|exact AL]. apply Rmult_le_pos; [lra | apply norm2_nonneg]. }
        lra.
      - intros x. specialize (Below x). lra. }
    set (total := sum T _) in *. apply Rmult_le_reg_l with (alpha * INR T); [nra|].
    replace (alpha * INR T * (total / INR T)) with (alpha * total) by (field; lra).
    replace (alpha * INR T * (2 * (f theta - f_min) / (alpha * INR T) + alpha * L * sigma2))
      with (2 * (f theta - f_min) + INR T * (alpha ^ 2 * L * sigma2)) by (field; lra).
    exact Le.
  Qed.

  (* So some k < T has E ||gradient(theta_k)||^2 no larger than that. *)
  Theorem sgd_finds_stationary_point f_min alpha theta T :
    (forall x, f_min <= f x) -> 0 < alpha <= 1 / L -> (1 <= T)%nat ->
    exists k, (k < T)%nat /\
      expected (fun x => ||gradient x||^2) (fun _ => alpha) theta k
      <= 2 * (f theta - f_min) / (alpha * INR T) + alpha * L * sigma2.
  Proof.
    intros Below A T1. assert (M := sgd_stationary f_min alpha theta T Below A T1).
    destruct (some_term_at_most_mean T (fun k => expected (fun x => ||gradient x||^2) (fun _ => alpha) theta k) T1)
      as (k & K & Le).
    exists k. split; [exact K | lra].
  Qed.
End StochasticGradient.
