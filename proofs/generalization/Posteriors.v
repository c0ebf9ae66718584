(* Posteriors on a prior of finite support: change of measure, and the joint convexity of the binomial kl.

   A posterior is given by its density with respect to the prior. For every f
     E_posterior f <= KL(posterior || prior) + ln E_prior exp f   (Donsker and Varadhan 1975),
   and kl(E_posterior q || E_posterior r) <= E_posterior kl(q || r), by the log-sum inequality. *)

Require Import Reals Lra List.
From LeanMnist.generalization Require Import Distribution Hoeffding BinomialKL.
Open Scope R_scope.

Lemma E_positive {A} (D : distribution A) f : (forall a, 0 < f a) -> 0 < E D f.
Proof.
  intros Hf. unfold E. pose proof (outcomes_sum_to_one A D) as One. pose proof (outcomes_nonneg A D) as Nonneg.
  assert (Main : forall l, (forall o, In o l -> 0 <= snd o) -> 0 < sum_over snd l ->
    0 < sum_over (fun o => snd o * f (fst o)) l).
  { induction l as [|o l IH]; simpl; intros Hl Hs; [lra|].
    assert (0 <= sum_over (fun o => snd o * f (fst o)) l).
    { apply sum_over_nonneg. intros a I. apply Rmult_le_pos; [apply Hl; now right | left; apply Hf]. }
    destruct (Hl o (or_introl eq_refl)) as [Hpos | Hzero].
    - assert (0 < snd o * f (fst o)) by (apply Rmult_lt_0_compat; [exact Hpos | apply Hf]). lra.
    - rewrite <- Hzero in Hs |- *. assert (0 < sum_over (fun o => snd o * f (fst o)) l); [|lra].
      apply IH; [intros a I; apply Hl; now right | lra]. }
  apply Main; [exact Nonneg | lra].
Qed.

Section Posterior.
  Context {H : Type} (prior : distribution H).

  (* The density of a posterior with respect to the prior. *)
  Definition is_posterior (density : H -> R) : Prop := (forall h, 0 <= density h) /\ E prior density = 1.

  Definition posterior_mean (density f : H -> R) : R := E prior (fun h => density h * f h).

  (* KL(posterior || prior), with 0 ln 0 = 0 *)
  Definition divergence (density : H -> R) : R := E prior (fun h => density h * ln (density h)).

  Variable density : H -> R.
  Hypothesis posterior : is_posterior density.

  Lemma posterior_mean_linear a f b g :
    posterior_mean density (fun h => a * f h + b * g h) = a * posterior_mean density f + b * posterior_mean density g.
  Proof.
    unfold posterior_mean. rewrite <- !E_scal, <- E_plus. apply E_ext. intros h. ring.
  Qed.

  Lemma posterior_mean_const c : posterior_mean density (fun _ => c) = c.
  Proof.
    unfold posterior_mean. rewrite (E_ext _ _ (fun h => c * density h)) by (intros; ring).
    rewrite E_scal, (proj2 posterior). ring.
  Qed.

  Lemma posterior_mean_le_on f g : (forall h, In h (values prior) -> f h <= g h) ->
    posterior_mean density f <= posterior_mean density g.
  Proof. intros Hfg. apply E_le_on. intros h I. apply Rmult_le_compat_l; [apply (proj1 posterior) | now apply Hfg]. Qed.

  (* Donsker and Varadhan: E_posterior f <= KL + ln E_prior exp f *)
  Theorem change_of_measure f : posterior_mean density f <= divergence density + ln (E prior (fun h => exp (f h))).
  Proof.
    set (Z := E prior (fun h => exp (f h))). assert (HZ : 0 < Z) by (apply E_positive; intros; apply exp_pos).
    assert (Key : E prior (fun h => density h * f h + -1 * (density h * ln (density h)) + - ln Z * density h)
                  <= E prior (fun h => / Z * exp (f h) + -1 * density h)).
    { apply E_le. intros h. pose proof (exp_pos (f h)) as Hexp.
      assert (0 < / Z * exp (f h)) by (apply Rmult_lt_0_compat; [now apply Rinv_0_lt_compat | exact Hexp]).
      destruct (proj1 posterior h) as [Hd | <-]; [|lra].
      set (y := / Z * exp (f h) * / density h).
      assert (Hy : 0 < y) by (apply Rmult_lt_0_compat; [assumption | now apply Rinv_0_lt_compat]).
      pose proof (ln_le_minus_1 y Hy) as L. apply (Rmult_le_compat_l (density h)) in L; [|lra].
      assert (Ly : ln y = f h - ln Z - ln (density h)).
      { unfold y. rewrite !ln_mult, !ln_Rinv, ln_exp; try (now apply Rinv_0_lt_compat); try assumption. ring. }
      rewrite Ly in L. replace (density h * (y - 1)) with (/ Z * exp (f h) + -1 * density h) in L
        by (unfold y; field; lra). lra. }
    rewrite !E_plus, !E_scal, (proj2 posterior) in Key. fold Z in Key.
    rewrite Rinv_l in Key by lra. unfold posterior_mean, divergence. lra.
  Qed.

  Lemma posterior_mean_nonneg f : (forall h, In h (values prior) -> 0 <= f h) -> 0 <= posterior_mean density f.
  Proof. intros Hf. rewrite <- (posterior_mean_const 0). now apply posterior_mean_le_on. Qed.

  (* The log-sum inequality; if the second mean is 0, so is the first. *)
  Lemma log_sum q r : (forall h, In h (values prior) -> 0 <= q h /\ 0 <= r h /\ (r h = 0 -> q h = 0)) ->
    let Q := posterior_mean density q in let P := posterior_mean density r in
    (P = 0 -> Q = 0) /\ Q * ln (Q / P) <= posterior_mean density (fun h => q h * ln (q h / r h)).
  Proof.
    intros Hqr Q P. set (T := posterior_mean density (fun h => q h * ln (q h / r h))).
    assert (Key : forall z, 0 < z -> Q - P / z - Q * ln z <= T).
    { intros z Hz. replace (Q - P / z - Q * ln z) with ((1 - ln z) * Q + - / z * P) by (field; lra).
      unfold Q, P. rewrite <- posterior_mean_linear. apply posterior_mean_le_on. intros h I.
      destruct (Hqr h I) as (Hq & [Hr | Hr] & Hzero).
      - pose proof (entropy_term (q h) (r h) z Hq Hr Hz). unfold Rdiv in *. lra.
      - rewrite (Hzero (eq_sym Hr)), <- Hr. lra. }
    assert (HQ : 0 <= Q) by (apply posterior_mean_nonneg; intros h I; apply (Hqr h I)).
    assert (HP : 0 <= P) by (apply posterior_mean_nonneg; intros h I; apply (Hqr h I)).
    destruct HQ as [HQ | HQ].
    - destruct HP as [HP | HP].
      + split; [lra|]. assert (HPQ : 0 < P / Q) by (apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat]; assumption).
        specialize (Key (P / Q) HPQ). replace (P / (P / Q)) with Q in Key by (field; lra).
        replace (Q / P) with (/ (P / Q)) by (field; lra). rewrite ln_Rinv by exact HPQ. lra.
      + exfalso. specialize (Key (exp (1 - (T + 1) / Q)) (exp_pos _)). rewrite ln_exp, <- HP in Key.
        replace (Q - 0 / exp (1 - (T + 1) / Q) - Q * (1 - (T + 1) / Q)) with (T + 1) in Key; [lra|].
        field. split; (apply Rgt_not_eq, exp_pos || lra).
    - split; [auto|]. rewrite <- HQ, Rmult_0_l in *. apply Rnot_lt_le. intros HT.
      assert (Hz : 0 < (P + 1) / - T) by (apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]).
      specialize (Key _ Hz). rewrite Rmult_0_l in Key.
      assert (Eq : P / ((P + 1) / - T) = - T * (P / (P + 1))) by (field; lra). rewrite Eq in Key.
      assert (P / (P + 1) < 1).
      { apply (Rmult_lt_reg_r (P + 1)); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
      assert (- T * (P / (P + 1)) < - T * 1) by (apply Rmult_lt_compat_l; lra). lra.
  Qed.

  (* kl is jointly convex: where it is finite everywhere, kl of the means is finite and at most the mean of kl. *)
  Theorem kl_of_means q r : (forall h, In h (values prior) ->
      0 <= q h <= 1 /\ 0 <= r h <= 1 /\ (r h = 0 -> q h = 0) /\ (r h = 1 -> q h = 1)) ->
    kl_at_most (posterior_mean density q) (posterior_mean density r) (posterior_mean density (fun h => kl (q h) (r h))).
  Proof.
    intros Hqr.
    assert (Not : forall f, posterior_mean density (fun h => 1 - f h) = 1 - posterior_mean density f).
    { intros f. replace (1 - posterior_mean density f)
        with (1 * posterior_mean density (fun _ => 1) + -1 * posterior_mean density f)
        by (rewrite posterior_mean_const; ring).
      rewrite <- posterior_mean_linear. apply E_ext. intros h. ring. }
    destruct (log_sum q r) as [Zero First].
    { intros h I. destruct (Hqr h I) as (Hq & Hr & Z & _). repeat split; lra. }
    destruct (log_sum (fun h => 1 - q h) (fun h => 1 - r h)) as [One Second].
    { intros h I. destruct (Hqr h I) as (Hq & Hr & _ & O). repeat split; lra. }
    rewrite !Not in One, Second. split; [exact Zero | split; [lra|]].
    apply Rle_trans with (1 := Rplus_le_compat _ _ _ _ First Second). right.
    unfold posterior_mean. rewrite <- E_plus. apply E_ext. intros h. unfold kl. ring.
  Qed.
End Posterior.
