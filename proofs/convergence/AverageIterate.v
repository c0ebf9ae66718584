(* Stochastic gradient descent on a convex, L-smooth function: the average of the iterates, and the rate 1/sqrt t.

   For the step alpha = a/sqrt t, a <= sqrt t/(2L), both the mean gap of the first t iterates and the gap of their
   average are in expectation at most (||theta_0 - theta*||^2/a + a sigma^2)/sqrt t. Source: as for
   StochasticGradient.v; the average iterate is Polyak's and Ruppert's. *)
Require Import Reals Lra Lia Psatz List.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers generalization.Distribution
  convergence.Vectors convergence.Convexity convergence.StochasticGradient.
Open Scope R_scope.

Section AverageIterate.
  Context {Seed : Type} (D : distribution Seed) (n : nat).
  Variables (f : vec -> R) (gradient : vec -> vec) (L : R) (sampled : vec -> Seed -> vec) (sigma2 : R).
  Local Notation "|| v ||^2" := (norm2 n v%V) (at level 35, v at level 60).

  (* theta_0, ..., theta_(t-1), where t is the number of seeds: where the t gradients are taken *)
  Fixpoint iterates (alpha : R) (theta : vec) (seeds : list Seed) : list vec :=
    match seeds with
    | [] => []
    | seed :: later => theta :: iterates alpha (theta - alpha * sampled theta seed)%V later
    end.

  Definition average (points : list vec) : vec :=
    fun i => sum_over (fun x : vec => x i) points / INR (length points).

  Lemma iterates_length alpha seeds : forall theta, length (iterates alpha theta seeds) = length seeds.
  Proof. induction seeds; intros; simpl; auto. Qed.

  (* The expected sum of h over the iterates of a path is the sum of the expectations. *)
  Lemma E_over_iterates h alpha t : forall theta,
    E (draws D t) (fun seeds => sum_over h (iterates alpha theta seeds))
    = sum t (fun k => expected D sampled h (fun _ => alpha) theta k).
  Proof.
    induction t as [|t IH]; intros theta; [apply E_draws_0|].
    rewrite E_draws_S, (expected_of_first D sampled). simpl.
    rewrite (E_ext D _ (fun seed => h theta + sum t (fun k => expected D sampled h (fun _ => alpha)
      (theta - alpha * sampled theta seed)%V k))).
    - now rewrite E_plus, E_const.
    - intros seed. now rewrite E_plus, E_const, IH.
  Qed.

  Hypothesis Smooth : smooth n L f gradient.

  (* Jensen's inequality: f(average) <= average of f *)
  Lemma convex_at_average points : convex f -> points <> [] ->
    f (average points) <= sum_over f points / INR (length points).
  Proof.
    intros Convex Some. assert (P : 0 < INR (length points)).
    { apply (lt_INR 0). destruct points; [congruence | simpl; lia]. }
    set (m := average points).
    assert (Each := strong_convexity_from_below n f gradient (proj1 Smooth) 0
      (convex_is_strongly_convex_0 n f Convex) m).
    assert (S := sum_over_le_on (fun x => f m + inner n (gradient m) (x - m)%V) f points
      ltac:(intros x _; specialize (Each x); lra)).
    rewrite sum_over_plus, sum_over_const in S.
    assert (Z : sum_over (fun x : vec => inner n (gradient m) (x - m)%V) points = 0).
    { rewrite (sum_over_ext_on _ (fun x => inner n (gradient m) x + - inner n (gradient m) m))
        by (intros; rewrite inner_minus_r; ring).
      rewrite sum_over_plus, sum_over_const.
      assert (M : sum_over (inner n (gradient m)) points = INR (length points) * inner n (gradient m) m).
      { unfold inner. rewrite <- sum_scal.
        transitivity (sum n (fun i => gradient m i * sum_over (fun x : vec => x i) points)).
        - generalize (gradient m). clear. intros g. induction points as [|x l IH]; simpl.
          + transitivity (sum n (fun _ => 0)); [now rewrite sum_zero | apply sum_ext; intros; ring].
          + rewrite IH, <- sum_plus. apply sum_ext. intros. ring.
        - apply sum_ext. intros i _. unfold m, average. field. lra. }
      rewrite M. ring. }
    rewrite Z in S. apply Rmult_le_reg_l with (INR (length points)); [exact P|].
    replace (INR (length points) * (sum_over f points / INR (length points))) with (sum_over f points) by (field; lra).
    lra.
  Qed.

  Hypothesis Lpos : 0 < L.
  Hypothesis Noise : unbiased_bounded D n gradient sampled sigma2.

  (* For convex, L-smooth f with minimizer theta*, 0 < alpha <= 1/(2L) and t >= 1, the average of the t iterates has
       E f(average) - f* <= ||theta_0 - theta*||^2/(alpha t) + alpha sigma^2. *)
  Theorem sgd_average_iterate star alpha theta t :
    convex f -> minimizer f star -> 0 < alpha <= 1 / (2 * L) -> (1 <= t)%nat ->
    E (draws D t) (fun seeds => f (average (iterates alpha theta seeds))) - f star
    <= ||theta - star||^2 / (alpha * INR t) + alpha * sigma2.
  Proof.
    intros Convex Least A T.
    apply Rle_trans with (2 := sgd_convex D n f gradient L sampled sigma2 Lpos Smooth Noise star alpha theta t
      Convex Least A T).
    apply Rplus_le_compat_r. rewrite <- E_over_iterates. unfold Rdiv. rewrite Rmult_comm, <- E_scal.
    apply E_draws_le. intros seeds Len. rewrite <- Len at 1. rewrite <- (iterates_length alpha seeds theta), Rmult_comm.
    apply convex_at_average; [exact Convex|]. intros Empty. apply (f_equal (@length vec)) in Empty.
    rewrite iterates_length in Empty. simpl in Empty. lia.
  Qed.

  (* With the step a/sqrt t, where that is at most 1/(2L), the mean gap of the iterates and the gap of their average
     are at most (||theta_0 - theta*||^2/a + a sigma^2)/sqrt t. *)
  Theorem sgd_convex_rate star a theta t : let alpha := a / sqrt (INR t) in
    convex f -> minimizer f star -> 0 < a -> alpha <= 1 / (2 * L) -> (1 <= t)%nat ->
    let bound := (||theta - star||^2 / a + a * sigma2) / sqrt (INR t) in
    sum t (fun k => expected D sampled f (fun _ => alpha) theta k) / INR t - f star <= bound
    /\ E (draws D t) (fun seeds => f (average (iterates alpha theta seeds))) - f star <= bound.
  Proof.
    intros alpha Convex Least A Small T bound.
    assert (Root : 0 < sqrt (INR t)) by (apply sqrt_lt_R0, (lt_INR 0); lia).
    assert (Sq : INR t = sqrt (INR t) * sqrt (INR t)) by (rewrite sqrt_sqrt; [reflexivity | apply pos_INR]).
    assert (Pos : 0 < alpha) by (apply Rmult_lt_0_compat; [lra | now apply Rinv_0_lt_compat]).
    assert (Same : ||theta - star||^2 / (alpha * INR t) + alpha * sigma2 = bound).
    { unfold bound, alpha. rewrite Sq at 2. field. lra. }
    rewrite <- Same. split.
    - now apply (sgd_convex D n f gradient L sampled sigma2).
    - now apply sgd_average_iterate.
  Qed.
End AverageIterate.
