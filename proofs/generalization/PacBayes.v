(* The PAC-Bayes-kl bound (Seeger 2002; Maurer 2004), for priors of finite support.

   Fix a prior before m examples are drawn. With probability at least 1 - delta, for all posteriors at once,
     m kl(Q || R) <= KL(posterior || prior) + ln(xi(m)/delta),   xi(m) = sum_k C(m,k) (k/m)^k (1 - k/m)^(m-k),
   where Q is the posterior's expected share of errors and R its expected risk. A posterior is given by its density with
   respect to the prior. Proved as well: xi(m) <= m + 1. That xi(m) <= 2 sqrt m is Maurer's and is not proved here;
   bounds.py relies on it, so the theorem is stated for any constant that is at least xi(m). The inequality says what it
   should for 0 < R < 1: kl is no number at R = 0 and R = 1, where Coq's division by 0 gives one. That a bound on R follows
   from it, as bounds.pac_bayes_risk computes it, is not proved here. *)

Require Import Reals Lra Lia List ZArith.
From LeanMnist.generalization Require Import Distribution Hoeffding ClopperPearson BinomialKL.
Import ListNotations.
Open Scope R_scope.

(* ---------- expectations: exchange, and Markov's inequality ---------- *)

Lemma E_exchange {A B} (D : distribution A) (F : distribution B) (f : A -> B -> R) :
  E D (fun a => E F (f a)) = E F (fun b => E D (fun a => f a b)).
Proof.
  unfold E at 2 3.
  rewrite (E_sum D (fun o a => snd o * f a (fst o))). apply sum_over_ext_on. intros o _. apply E_scal.
Qed.

Lemma markov {A} (D : distribution A) (f : A -> R) c : (forall a, 0 <= f a) -> 0 < c ->
  Prob D (fun a => c < f a) <= E D f / c.
Proof.
  intros Hf Hc. unfold Prob, Rdiv. rewrite Rmult_comm, <- E_scal. apply E_le. intros a. apply indicator_le.
  - intros H. apply (Rmult_le_reg_l c); [exact Hc|]. rewrite <- Rmult_assoc, Rinv_r by lra. lra.
  - intros _. apply Rmult_le_pos; [left; now apply Rinv_0_lt_compat | apply Hf].
Qed.

(* ---------- the expectation of exp(m kl(errors/m || risk)) ---------- *)

Definition xi (m : nat) : R :=
  sum_over (fun k => IZR (choose m k) * (INR k / INR m) ^ k * (1 - INR k / INR m) ^ (m - k)) (seq 0 (S m)).

Lemma E_of_errors {A} (D : distribution A) wrong m (g : nat -> R) :
  E (draws D m) (fun sample => g (errors wrong sample)) =
  sum_over (fun k => binomial_term m (risk D wrong) k * g k) (seq 0 (S m)).
Proof.
  transitivity (sum_over (fun k => E (draws D m) (fun sample => g k * indicator (errors wrong sample = k)))
                         (seq 0 (S m))).
  - rewrite <- E_sum. apply E_ext_on. intros sample I.
    assert (Hin : In (errors wrong sample) (seq 0 (S m))).
    { apply in_seq. rewrite <- (draws_length D m sample I). pose proof (errors_le_length wrong sample). lia. }
    pose proof (seq_NoDup (S m) 0) as Hdup. revert Hin Hdup. generalize (seq 0 (S m)) (errors wrong sample).
    intros l j. induction l as [|k l IH]; [easy|]. intros Hin Hdup. apply NoDup_cons_iff in Hdup as [Hk Hdup].
    rewrite sum_over_cons. destruct (Nat.eq_dec k j) as [->|Hne].
    + rewrite indicator_true by reflexivity.
      rewrite (sum_over_ext_on _ (fun _ => 0)); [rewrite sum_over_const; ring|].
      intros k I'. rewrite indicator_false; [ring | intros ->; contradiction].
    + rewrite indicator_false by auto. destruct Hin as [|Hin]; [contradiction|]. rewrite <- (IH Hin Hdup). ring.
  - apply sum_over_ext_on. intros k _. rewrite E_scal, Rmult_comm. f_equal.
    pose proof (prob_errors_below D wrong m k) as Below. pose proof (prob_errors_below D wrong m (S k)) as Upto.
    simpl binomial_below in Upto. rewrite <- Below in Upto.
    assert (Split : Prob (draws D m) (fun sample => (errors wrong sample < S k)%nat) =
      Prob (draws D m) (fun sample => (errors wrong sample < k)%nat)
        + Prob (draws D m) (fun sample => errors wrong sample = k)).
    { unfold Prob. rewrite <- E_plus. apply E_ext. intros sample.
      destruct (Nat.lt_trichotomy (errors wrong sample) k) as [L|[Eq|G]].
      - rewrite !indicator_true, indicator_false by lia. ring.
      - rewrite indicator_true, indicator_false, indicator_true by lia. ring.
      - rewrite !indicator_false by lia. ring. }
    unfold Prob in *. lra.
Qed.

Lemma binomial_below_range n k p : 0 <= p <= 1 -> 0 <= binomial_below n k p <= 1.
Proof.
  intros Hp. split.
  - induction k as [|k IH]; [apply Rle_refl|]. simpl. pose proof (binomial_term_nonneg n p k Hp). lra.
  - revert k. induction n; intros [|k]; try (simpl; lra); [rewrite binomial_below_0_S; lra|].
    rewrite binomial_below_S_S. pose proof (IHn k). pose proof (IHn (S k)).
    assert (p * binomial_below n k p <= p * 1) by (apply Rmult_le_compat_l; lra).
    assert ((1 - p) * binomial_below n (S k) p <= (1 - p) * 1) by (apply Rmult_le_compat_l; lra). lra.
Qed.

Lemma ratio_range k m : (k <= m)%nat -> (0 < m)%nat -> 0 <= INR k / INR m <= 1.
Proof.
  intros Hk Hm. assert (0 < INR m) by now apply lt_0_INR. apply le_INR in Hk.
  split; [apply Rmult_le_pos; [apply pos_INR | left; now apply Rinv_0_lt_compat]|].
  apply (Rmult_le_reg_r (INR m)); [assumption|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra.
Qed.

(* xi(m) is a sum of m + 1 probabilities. *)
Theorem xi_at_most m : (0 < m)%nat -> xi m <= INR m + 1.
Proof.
  intros Hm. unfold xi. replace (INR m + 1) with (sum_over (fun _ : nat => 1) (seq 0 (S m)))
    by (rewrite sum_over_const, seq_length, S_INR; ring).
  apply sum_over_le_on. intros k I. apply in_seq in I.
  pose proof (ratio_range k m ltac:(lia) Hm) as Hq.
  change (binomial_term m (INR k / INR m) k <= 1).
  pose proof (binomial_below_range m (S k) _ Hq). pose proof (binomial_below_range m k _ Hq).
  simpl binomial_below in H. lra.
Qed.

(* P[errors = k] exp(m kl(k/m || r)) is at most the term of xi: for 0 < r < 1 they are equal. *)
Lemma term_times_exp_kl m k r : (k <= m)%nat -> (0 < m)%nat -> 0 <= r <= 1 ->
  binomial_term m r k * exp (INR m * kl (INR k / INR m) r) <= binomial_term m (INR k / INR m) k.
Proof.
  intros Hk Hm Hr. assert (Hm' : 0 < INR m) by now apply lt_0_INR.
  pose proof (ratio_range k m Hk Hm) as Hq.
  assert (Hk' : INR k = INR m * (INR k / INR m)) by (field; lra).
  assert (Hmk : INR (m - k) = INR m * (1 - INR k / INR m)) by (rewrite minus_INR by exact Hk; field; lra).
  pose proof (binomial_term_nonneg m (INR k / INR m) k Hq) as Right. set (q := INR k / INR m) in *.
  destruct (Req_dec r 0) as [->|Hr0]; [|destruct (Req_dec r 1) as [->|Hr1]].
  - destruct k as [|k].
    + unfold q, binomial_term, kl. simpl INR. unfold Rdiv. rewrite !Rmult_0_l, !Rminus_0_r, Rinv_1, !Rmult_1_r, ln_1.
      rewrite Rmult_0_r, Rplus_0_r, Rmult_0_r, exp_0. lra.
    + unfold binomial_term at 1. rewrite pow_i by lia. rewrite Rmult_0_r, Rmult_0_l, Rmult_0_l. exact Right.
  - destruct (Nat.eq_dec k m) as [->|Hne].
    + assert (Hq1 : q = 1) by (unfold q; field; lra). rewrite Hq1. unfold kl.
      replace (1 / 1) with 1 by field. rewrite ln_1, Rminus_diag_eq by reflexivity.
      rewrite Rmult_0_l, Rmult_0_r, Rplus_0_r, Rmult_0_r, exp_0. lra.
    + unfold binomial_term at 1. rewrite (Rminus_diag_eq 1 1) by reflexivity.
      rewrite (pow_i (m - k)) by lia. rewrite Rmult_0_r, Rmult_0_l. exact Right.
  - right. unfold binomial_term, kl. rewrite Rmult_plus_distr_l, exp_plus, <- !Rmult_assoc, <- Hk', <- Hmk.
    assert (First : r ^ k * exp (INR k * ln (q / r)) = q ^ k).
    { destruct k as [|k]; [simpl; rewrite Rmult_0_l, exp_0; ring|].
      assert (0 < q) by (unfold q; apply Rmult_lt_0_compat; [apply lt_0_INR; lia | now apply Rinv_0_lt_compat]).
      rewrite <- pow_ln by (apply Rmult_lt_0_compat; [assumption | apply Rinv_0_lt_compat; lra]).
      rewrite <- Rpow_mult_distr. f_equal. field. lra. }
    assert (Second : (1 - r) ^ (m - k) * exp (INR (m - k) * ln ((1 - q) / (1 - r))) = (1 - q) ^ (m - k)).
    { destruct (Nat.eq_dec k m) as [->|Hne]; [rewrite Nat.sub_diag; simpl; rewrite Rmult_0_l, exp_0; ring|].
      assert (0 < 1 - q).
      { assert (0 < INR (m - k)) by (apply lt_0_INR; lia). rewrite Hmk in H.
        apply (Rmult_lt_reg_l (INR m)); [exact Hm' | lra]. }
      rewrite <- pow_ln by (apply Rmult_lt_0_compat; [assumption | apply Rinv_0_lt_compat; lra]).
      rewrite <- Rpow_mult_distr. f_equal. field. lra. }
    rewrite <- First, <- Second. ring.
Qed.

Lemma expected_exp_kl {A} (D : distribution A) wrong m : (0 < m)%nat ->
  E (draws D m) (fun sample => exp (INR m * kl (INR (errors wrong sample) / INR m) (risk D wrong))) <= xi m.
Proof.
  intros Hm. rewrite (E_of_errors D wrong m (fun k => exp (INR m * kl (INR k / INR m) (risk D wrong)))).
  apply sum_over_le_on. intros k I. apply in_seq in I. apply term_times_exp_kl; [lia | exact Hm | apply risk_range].
Qed.

(* ---------- posteriors ---------- *)

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

  (* The log-sum inequality. *)
  Lemma log_sum q r : (forall h, In h (values prior) -> 0 <= q h /\ 0 <= r h /\ (r h = 0 -> q h = 0)) ->
    let Q := posterior_mean density q in let P := posterior_mean density r in
    Q * ln (Q / P) <= posterior_mean density (fun h => q h * ln (q h / r h)).
  Proof.
    intros Hqr Q P. set (T := posterior_mean density (fun h => q h * ln (q h / r h))).
    assert (Key : forall z, 0 < z -> Q - P / z - Q * ln z <= T).
    { intros z Hz. replace (Q - P / z - Q * ln z) with ((1 - ln z) * Q + - / z * P) by (field; lra).
      unfold Q, P. rewrite <- posterior_mean_linear. apply posterior_mean_le_on. intros h I.
      destruct (Hqr h I) as (Hq & [Hr | Hr] & Hzero).
      - pose proof (entropy_term (q h) (r h) z Hq Hr Hz). unfold Rdiv in *. lra.
      - rewrite (Hzero (eq_sym Hr)), <- Hr. lra. }
    assert (HQ : 0 <= Q).
    { rewrite <- (posterior_mean_const 0). apply posterior_mean_le_on. intros h I. apply (Hqr h I). }
    assert (HP : 0 <= P).
    { rewrite <- (posterior_mean_const 0). apply posterior_mean_le_on. intros h I. apply (Hqr h I). }
    destruct HQ as [HQ | HQ].
    - destruct HP as [HP | HP].
      + assert (HPQ : 0 < P / Q) by (apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat]; assumption).
        specialize (Key (P / Q) HPQ). replace (P / (P / Q)) with Q in Key by (field; lra).
        replace (Q / P) with (/ (P / Q)) by (field; lra). rewrite ln_Rinv by exact HPQ. lra.
      + exfalso. specialize (Key (exp (1 - (T + 1) / Q)) (exp_pos _)). rewrite ln_exp, <- HP in Key.
        replace (Q - 0 / exp (1 - (T + 1) / Q) - Q * (1 - (T + 1) / Q)) with (T + 1) in Key; [lra|].
        field. split; (apply Rgt_not_eq, exp_pos || lra).
    - rewrite <- HQ, Rmult_0_l in *. apply Rnot_lt_le. intros HT.
      assert (Hz : 0 < (P + 1) / - T) by (apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]).
      specialize (Key _ Hz). rewrite Rmult_0_l in Key.
      assert (Eq : P / ((P + 1) / - T) = - T * (P / (P + 1))) by (field; lra). rewrite Eq in Key.
      assert (P / (P + 1) < 1).
      { apply (Rmult_lt_reg_r (P + 1)); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
      assert (- T * (P / (P + 1)) < - T * 1) by (apply Rmult_lt_compat_l; lra). lra.
  Qed.

  (* kl is jointly convex: kl of the means is at most the mean of kl, where it is finite. *)
  Theorem kl_of_means q r : (forall h, In h (values prior) ->
      0 <= q h <= 1 /\ 0 <= r h <= 1 /\ (r h = 0 -> q h = 0) /\ (r h = 1 -> q h = 1)) ->
    kl (posterior_mean density q) (posterior_mean density r) <= posterior_mean density (fun h => kl (q h) (r h)).
  Proof.
    intros Hqr.
    assert (Not : forall f, posterior_mean density (fun h => 1 - f h) = 1 - posterior_mean density f).
    { intros f. replace (1 - posterior_mean density f)
        with (1 * posterior_mean density (fun _ => 1) + -1 * posterior_mean density f)
        by (rewrite posterior_mean_const; ring).
      rewrite <- posterior_mean_linear. apply E_ext. intros h. ring. }
    assert (Sum : forall f g, posterior_mean density (fun h => f h + g h) =
                              posterior_mean density f + posterior_mean density g).
    { intros f g. unfold posterior_mean. rewrite <- E_plus. apply E_ext. intros h. ring. }
    pose proof (log_sum q r) as First. pose proof (log_sum (fun h => 1 - q h) (fun h => 1 - r h)) as Second.
    cbv zeta in First, Second. rewrite !Not in Second. unfold kl. rewrite Sum.
    apply Rplus_le_compat; [apply First | apply Second]; intros h I;
      destruct (Hqr h I) as (Hq & Hr & Zero & One); repeat split; lra.
  Qed.
End Posterior.

(* ---------- the bound ---------- *)

Section PacBayes.
  Context {A H : Type} (D : distribution A) (wrong : H -> A -> bool) (prior : distribution H) (m : nat).
  Hypothesis examples : (0 < m)%nat.

  Definition error_rate (sample : list A) (h : H) : R := INR (errors (wrong h) sample) / INR m.

  (* A hypothesis of risk 0 errs, or one of risk 1 is right somewhere: this does not happen. *)
  Definition impossible (sample : list A) (h : H) : Prop :=
    (risk D (wrong h) = 0 /\ (0 < errors (wrong h) sample)%nat) \/
    (risk D (wrong h) = 1 /\ (errors (wrong h) sample < m)%nat).

  Lemma impossible_has_probability_0 h : Prob (draws D m) (fun sample => impossible sample h) <= 0.
  Proof.
    destruct (Req_dec (risk D (wrong h)) 0) as [Zero|Zero]; [|destruct (Req_dec (risk D (wrong h)) 1) as [One|One]].
    - apply Rle_trans with (Prob (draws D m) (fun sample => ~ (errors (wrong h) sample < 1)%nat)).
      + apply Prob_mono. unfold impossible. intros sample [[_ P] | [One _]]; [lia | lra].
      + rewrite Prob_not, prob_errors_below, Zero. simpl. unfold binomial_term. rewrite choose_0.
        rewrite Rminus_0_r, pow1. simpl. lra.
    - apply Rle_trans with (Prob (draws D m) (fun sample => (errors (wrong h) sample < m)%nat)).
      + apply Prob_mono. unfold impossible. intros sample [[Z _] | [_ P]]; [lra | exact P].
      + rewrite prob_errors_below, One.
        assert (Main : forall k, (k <= m)%nat -> binomial_below m k 1 = 0).
        { induction k as [|k IH]; intros Hk; [reflexivity|]. simpl. rewrite IH by lia. unfold binomial_term.
          rewrite Rminus_diag_eq, pow_i by (reflexivity || lia). ring. }
        rewrite Main by lia. apply Rle_refl.
    - rewrite Prob_impossible; [apply Rle_refl|]. unfold impossible. intros sample _ [[Z _] | [O _]]; contradiction.
  Qed.

  (* For all posteriors at once, except for a draw of probability delta:
     m kl(Q || R) <= KL(posterior || prior) + ln(c/delta), for any c >= xi(m); m + 1 is such a number. *)
  Theorem pac_bayes_kl c delta : 0 < delta -> 0 < c -> xi m <= c ->
    Prob (draws D m) (fun sample => exists density, is_posterior prior density /\
      divergence prior density + ln (c / delta) <
      INR m * kl (posterior_mean prior density (error_rate sample))
                 (posterior_mean prior density (fun h => risk D (wrong h)))) <= delta.
  Proof.
    intros Hdelta Hc Hxi. assert (Hm : 0 < INR m) by now apply lt_0_INR.
    assert (Hcd : 0 < c / delta) by (apply Rmult_lt_0_compat; [exact Hc | now apply Rinv_0_lt_compat]).
    set (moment := fun sample => E prior (fun h => exp (INR m * kl (error_rate sample h) (risk D (wrong h))))).
    assert (Bad : Prob (draws D m) (fun sample => exists h, In h (values prior) /\ impossible sample h) <= 0).
    { eapply Rle_trans; [apply (Prob_union (draws D m) (fun h sample => impossible sample h))|].
      apply Rle_trans with (sum_over (fun _ : H => 0) (values prior)); [|rewrite sum_over_const; lra].
      apply sum_over_le_on. intros h _. apply impossible_has_probability_0. }
    assert (Large : Prob (draws D m) (fun sample => c / delta < moment sample) <= delta).
    { eapply Rle_trans; [apply markov; [|exact Hcd]|].
      - intros sample. left. apply E_positive. intros; apply exp_pos.
      - apply Rle_trans with (c / (c / delta)); [|right; field; lra].
        apply Rmult_le_compat_r; [left; now apply Rinv_0_lt_compat|]. unfold moment. rewrite E_exchange.
        rewrite <- (E_const prior c). apply E_le. intros h.
        eapply Rle_trans; [apply (expected_exp_kl D (wrong h) m examples) | exact Hxi]. }
    apply Rle_trans with (Prob (draws D m) (fun sample =>
      (exists h, In h (values prior) /\ impossible sample h) \/ c / delta < moment sample)).
    2:{ eapply Rle_trans; [apply Prob_or | lra]. }
    apply Prob_mono_on. intros sample I (density & Hpost & Hlt). apply draws_length in I.
    destruct (Rlt_le_dec (c / delta) (moment sample)) as [Large'|Small]; [now right | left].
    apply Classical_Prop.NNPP. intros None.
    eapply Rlt_irrefl, Rle_lt_trans; [|exact Hlt].
    apply Rle_trans with (posterior_mean prior density (fun h => INR m * kl (error_rate sample h) (risk D (wrong h)))).
    - unfold posterior_mean at 3. rewrite (E_ext prior _ (fun h => INR m * (density h * kl (error_rate sample h)
        (risk D (wrong h))))) by (intros; ring).
      rewrite E_scal. apply Rmult_le_compat_l; [lra|]. apply kl_of_means; [exact Hpost|]. intros h Ih.
      pose proof (errors_le_length (wrong h) sample) as Hlen. rewrite I in Hlen.
      repeat split; try apply risk_range; try (apply ratio_range; assumption).
      + intros Zero. unfold error_rate. destruct (errors (wrong h) sample) as [|k] eqn:Ek; [simpl; field; lra|].
        exfalso. apply None. exists h. split; [exact Ih|]. left. split; [exact Zero | lia].
      + intros One. unfold error_rate. destruct (Nat.eq_dec (errors (wrong h) sample) m) as [->|Hne]; [field; lra|].
        exfalso. apply None. exists h. split; [exact Ih|]. right. split; [exact One | lia].
    - eapply Rle_trans; [apply change_of_measure; exact Hpost|]. apply Rplus_le_compat_l.
      change (ln (moment sample) <= ln (c / delta)).
      destruct Small as [Small | Same]; [left; apply ln_increasing; [|exact Small] | rewrite Same; apply Rle_refl].
      apply E_positive. intros; apply exp_pos.
  Qed.
End PacBayes.
