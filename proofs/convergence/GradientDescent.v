(* Gradient descent with a constant step, theta' = theta - alpha gradient(theta), on functions on R^n.

   On a mu-strongly convex and L-smooth function the distance to the minimizer shrinks by 1 - alpha mu in each step, for
   0 < alpha <= 2/(mu + L); on a convex and L-smooth one the gap of the values is at most ||theta_0 - theta*||^2 /
   (2 alpha t) after t steps, for 0 < alpha <= 1/L. Source: Nesterov, Lectures on Convex Optimization, 2nd ed., 2018,
   sections 2.1.5 and 2.1.6. Arithmetic is exact: rounding is not modelled. *)
Require Import Reals Lra Lia Psatz.
From LeanMnist Require Import gradients.RealNumbers convergence.Vectors convergence.Convexity.
Open Scope R_scope.

(* theta_t *)
Fixpoint gradient_descent (gradient : vec -> vec) (alpha : R) (theta : vec) (t : nat) : vec :=
  match t with
  | O => theta
  | S k => let at_k := gradient_descent gradient alpha theta k in (at_k - alpha * gradient at_k)%V
  end.

(* The factor of a step is in [0, 1]. *)
Lemma contraction_range L mu alpha : 0 < mu <= L -> 0 < alpha <= 2 / (mu + L) -> 0 <= 1 - alpha * mu <= 1.
Proof.
  intros Mu A. assert (alpha * (mu + L) <= 2).
  { apply Rmult_le_reg_r with (/ (mu + L)); [apply Rinv_0_lt_compat; lra|]. rewrite Rmult_assoc, Rinv_r by lra. lra. }
  nra.
Qed.

Section GradientDescent.
  Variables (n : nat) (f : vec -> R) (gradient : vec -> vec) (L alpha : R) (star : vec).
  Hypothesis Lpos : 0 < L.
  Hypothesis Smooth : smooth n L f gradient.
  Hypothesis Least : minimizer f star.
  Local Notation "<< u , v >>" := (inner n u v).
  Local Notation "|| v ||^2" := (norm2 n v%V) (at level 35, v at level 60).

  (* ||theta - alpha g - theta*||^2 *)
  Lemma distance_after (theta g : vec) :
    ||theta - alpha * g - star||^2
    = ||theta - star||^2 - 2 * alpha * << g, (theta - star)%V >> + alpha ^ 2 * ||g||^2.
  Proof.
    replace (theta - alpha * g - star)%V with (theta - star - alpha * g)%V by same_vector.
    rewrite norm2_minus, (inner_sym n _ g). ring.
  Qed.

  Lemma minus_gradient_at_star (theta : vec) :
    ||gradient theta - gradient star||^2 = ||gradient theta||^2
    /\ << (gradient theta - gradient star)%V, (theta - star)%V >> = << gradient theta, (theta - star)%V >>.
  Proof.
    assert (Z := fun v => gradient_at_minimizer n f gradient (proj1 Smooth) star v Least).
    split; expand; rewrite ?(inner_sym n _ (gradient star)), !Z; ring.
  Qed.

  (* ||theta' - theta*|| <= (1 - alpha mu) ||theta - theta*||, in squares *)
  Lemma strongly_convex_step mu (theta : vec) : strongly_convex n mu f -> 0 < mu <= L -> 0 < alpha <= 2 / (mu + L) ->
    ||theta - star||^2 - 2 * alpha * << gradient theta, (theta - star)%V >> + alpha ^ 2 * ||gradient theta||^2
    <= (1 - alpha * mu) ^ 2 * ||theta - star||^2.
  Proof.
    intros Convex Mu Alpha. destruct Smooth as [Gradient Lipschitz].
    assert (M := strongly_convex_smooth_monotone n f gradient Gradient L Lpos Lipschitz mu theta star Convex
      ltac:(lra)).
    destruct (minus_gradient_at_star theta) as [-> ->] in M.
    set (r := ||theta - star||^2) in *. set (g := ||gradient theta||^2) in *.
    set (c := << gradient theta, (theta - star)%V >>) in *.
    (* ||gradient|| >= mu ||theta - theta*||: the inequality of convexity, both ways *)
    assert (Steep : mu ^ 2 * r <= g).
    { assert (A := strong_convexity_from_below n f gradient Gradient mu Convex theta star).
      assert (B := strong_convexity_from_below n f gradient Gradient mu Convex star theta).
      rewrite (gradient_at_minimizer n f gradient Gradient star _ Least) in B.
      replace (star - theta)%V with (-1 * (theta - star))%V in A by same_vector.
      unfold norm2 in A. rewrite inner_scal_l, !inner_scal_r in A. fold (||theta - star||^2) in A. fold r c in A, B.
      assert (P := norm2_nonneg n (gradient theta - mu * (theta - star))%V). rewrite norm2_minus in P.
      fold r c g in P. nra. }
    assert (Q : alpha * (mu + L) <= 2).
    { apply Rmult_le_reg_r with (/ (mu + L)); [apply Rinv_0_lt_compat; lra|].
      rewrite Rmult_assoc, Rinv_r by lra. lra. }
    apply Rmult_le_reg_l with (mu + L); [lra|].
    assert (X : 2 * alpha * (mu * L * r + g) <= 2 * alpha * ((mu + L) * c)) by (apply Rmult_le_compat_l; lra).
    assert (Y : 0 <= alpha * (2 - alpha * (mu + L)) * (g - mu ^ 2 * r)).
    { apply Rmult_le_pos; [apply Rmult_le_pos; lra | lra]. }
    nra.
  Qed.

  (* For mu-strongly convex, L-smooth f with minimizer theta*, and 0 < alpha <= 2/(mu + L):
       ||theta_t - theta*||^2 <= (1 - alpha mu)^(2t) ||theta_0 - theta*||^2 *)
  Theorem gradient_descent_strongly_convex mu theta t :
    strongly_convex n mu f -> 0 < mu <= L -> 0 < alpha <= 2 / (mu + L) ->
    ||gradient_descent gradient alpha theta t - star||^2 <= (1 - alpha * mu) ^ (2 * t) * ||theta - star||^2.
  Proof.
    intros Convex Mu Alpha. induction t as [|t IH]; [simpl; lra|].
    simpl gradient_descent. cbv zeta. rewrite distance_after.
    apply Rle_trans with (1 := strongly_convex_step mu _ Convex Mu Alpha).
    replace (2 * S t)%nat with (2 + 2 * t)%nat by lia. rewrite pow_add, Rmult_assoc.
    apply Rmult_le_compat_l; [apply pow2_ge_0 | exact IH].
  Qed.

  Lemma step_at_most_1_over_L : 0 < alpha <= 1 / L -> alpha * L <= 1.
  Proof.
    intros A. apply Rmult_le_reg_r with (/ L); [now apply Rinv_0_lt_compat|].
    rewrite Rmult_assoc, Rinv_r by lra. lra.
  Qed.

  (* No step of length 0 < alpha <= 1/L goes up, convex or not: f(theta') <= f(theta) - alpha/2 ||gradient||^2 *)
  Theorem gradient_step_descends theta : 0 < alpha <= 1 / L ->
    f (theta - alpha * gradient theta)%V <= f theta - alpha / 2 * ||gradient theta||^2.
  Proof.
    intros A. assert (B := step_at_most_1_over_L A). destruct Smooth as [Gradient Lipschitz].
    apply Rle_trans with (1 := descent_of_a_step n f gradient Gradient L Lpos Lipschitz theta (gradient theta) alpha).
    fold (||gradient theta||^2). assert (N := norm2_nonneg n (gradient theta)).
    assert (0 <= alpha * (1 - alpha * L) * ||gradient theta||^2).
    { apply Rmult_le_pos; [apply Rmult_le_pos; lra | exact N]. }
    nra.
  Qed.

  (* For convex, L-smooth f with minimizer theta*, 0 < alpha <= 1/L and t >= 1:
       f(theta_t) - f* <= ||theta_0 - theta*||^2 / (2 alpha t) *)
  Theorem gradient_descent_convex theta t : convex f -> 0 < alpha <= 1 / L -> (1 <= t)%nat ->
    f (gradient_descent gradient alpha theta t) - f star <= ||theta - star||^2 / (2 * alpha * INR t).
  Proof.
    intros Convex A T. assert (Tpos : 0 < INR t) by (apply (lt_INR 0); lia).
    assert (G : forall k, let at_k := gradient_descent gradient alpha theta k in
      2 * alpha * INR k * (f at_k - f star) + ||at_k - star||^2 <= ||theta - star||^2).
    { induction k as [|k IH]; [simpl; lra|]. intros at_next. unfold at_next. simpl gradient_descent. cbv zeta in *.
      set (x := gradient_descent gradient alpha theta k) in *. rewrite distance_after, S_INR.
      assert (Down := gradient_step_descends x A). assert (Below := Least (x - alpha * gradient x)%V).
      assert (First := strong_convexity_from_below n f gradient (proj1 Smooth) 0
        (convex_is_strongly_convex_0 n f Convex) x star).
      replace (star - x)%V with (-1 * (x - star))%V in First by same_vector. rewrite inner_scal_r in First.
      set (y := f (x - alpha * gradient x)%V) in *. set (g := ||gradient x||^2) in *.
      set (c := << gradient x, (x - star)%V >>) in *.
      assert (N := norm2_nonneg n (gradient x)). fold g in N. assert (K := pos_INR k).
      assert (S1 : 2 * alpha * (y - f star) <= 2 * alpha * c - alpha ^ 2 * g).
      { replace (2 * alpha * c - alpha ^ 2 * g) with (2 * alpha * (c - alpha / 2 * g)) by field.
        apply Rmult_le_compat_l; lra. }
      assert (S2 : 2 * alpha * INR k * (y - f star) <= 2 * alpha * INR k * (f x - f star)).
      { apply Rmult_le_compat_l; [apply Rmult_le_pos; lra|].
        assert (0 <= alpha / 2 * g) by (apply Rmult_le_pos; lra). lra. }
      lra. }
    specialize (G t). cbv zeta in G. set (gap := f _ - f star) in *.
    assert (N := norm2_nonneg n (gradient_descent gradient alpha theta t - star)%V).
    apply Rmult_le_reg_l with (2 * alpha * INR t); [nra|].
    replace (2 * alpha * INR t * (||theta - star||^2 / (2 * alpha * INR t))) with (||theta - star||^2) by (field; lra).
    lra.
  Qed.
End GradientDescent.
