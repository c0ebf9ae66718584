(* The PAC-Bayes-kl bound (Seeger 2002; Maurer 2004), for priors of finite support.

   Fix a prior before m examples are drawn. With probability at least 1 - delta, for all posteriors at once,
     m kl(Q || R) <= KL(posterior || prior) + ln(xi(m)/delta),   xi(m) = sum_k C(m,k) (k/m)^k (1 - k/m)^(m-k),
   where Q is the posterior's expected share of errors and R its expected risk. A posterior is given by its density with
   respect to the prior. From it follows a bound on R ([pac_bayes_risk]): any b >= Q with
   m kl(Q || b) >= KL(posterior || prior) + ln(xi(m)/delta). Both are stated for any constant that is at least xi(m), of
   which m + 1 is one; that 2 sqrt m, the one of bounds.py, is one too is in MaurerConstant.v. *)

Require Import Reals Lra Lia List ZArith.
From Coquelicot Require Import Rcomplements.
From LeanMnist.generalization Require Import Distribution Hoeffding ClopperPearson BinomialKL Posteriors.
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

(* ---------- the bound ---------- *)

Section PacBayes.
  Context {A H : Type} (D : distribution A) (wrong : H -> A -> bool) (prior : distribution H) (m : nat).
  Hypothesis examples : (0 < m)%nat.

  Definition error_rate (sample : list A) (h : H) : R := INR (errors (wrong h) sample) / INR m.

  (* R, the risk that a hypothesis drawn from the posterior has on average. *)
  Definition posterior_risk (density : H -> R) : R := posterior_mean prior density (fun h => risk D (wrong h)).

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
     m kl(Q || R) <= KL(posterior || prior) + ln(c/delta), for any c >= xi(m); m + 1 is such a number. That includes
     Q = 0 where R = 0, and Q = 1 where R = 1. *)
  Theorem pac_bayes_kl c delta : 0 < delta -> 0 < c -> xi m <= c ->
    Prob (draws D m) (fun sample => exists density, is_posterior prior density /\
      ~ kl_at_most (posterior_mean prior density (error_rate sample)) (posterior_risk density)
                   ((divergence prior density + ln (c / delta)) / INR m)) <= delta.
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
    apply Prob_mono_on. intros sample I (density & Hpost & Hnot). apply draws_length in I.
    destruct (Rlt_le_dec (c / delta) (moment sample)) as [Large'|Small]; [now right | left].
    apply Classical_Prop.NNPP. intros None. apply Hnot. clear Hnot.
    destruct (kl_of_means prior density Hpost (error_rate sample) (fun h => risk D (wrong h))) as (Zero & One & Le).
    { intros h Ih. pose proof (errors_le_length (wrong h) sample) as Hlen. rewrite I in Hlen.
      repeat split; try apply risk_range; try (apply ratio_range; assumption).
      + intros Zero. unfold error_rate. destruct (errors (wrong h) sample) as [|k] eqn:Ek; [simpl; field; lra|].
        exfalso. apply None. exists h. split; [exact Ih|]. left. split; [exact Zero | lia].
      + intros One. unfold error_rate. destruct (Nat.eq_dec (errors (wrong h) sample) m) as [->|Hne]; [field; lra|].
        exfalso. apply None. exists h. split; [exact Ih|]. right. split; [exact One | lia]. }
    split; [exact Zero | split; [exact One|]]. apply (Rle_trans _ _ _ Le), (Rmult_le_reg_l (INR m)); [exact Hm|].
    replace (INR m * ((divergence prior density + ln (c / delta)) / INR m))
      with (divergence prior density + ln (c / delta)) by (field; lra).
    apply Rle_trans with (divergence prior density + ln (moment sample)).
    - apply Rle_trans with (2 := change_of_measure prior density Hpost _). right. unfold posterior_mean.
      rewrite <- E_scal. apply E_ext. intros h. ring.
    - apply Rplus_le_compat_l, ln_le; [apply E_positive; intros; apply exp_pos | exact Small].
  Qed.

  (* The number that is printed. Let q >= Q, K >= KL(posterior || prior) and q <= b < 1 with
     m kl(q || b) >= K + ln(c/delta): the risk R of the posterior is at most b, for all such posteriors and numbers at
     once, except for a draw of probability delta. *)
  Theorem pac_bayes_risk c delta : 0 < delta -> 0 < c -> xi m <= c ->
    Prob (draws D m) (fun sample => exists density q K b, is_posterior prior density /\
      posterior_mean prior density (error_rate sample) <= q <= b /\ divergence prior density <= K /\ 0 < b < 1 /\
      K + ln (c / delta) <= INR m * kl q b /\ b < posterior_risk density) <= delta.
  Proof.
    intros Hdelta Hc Hxi. eapply Rle_trans; [|exact (pac_bayes_kl c delta Hdelta Hc Hxi)].
    apply Prob_mono. intros sample (density & q & K & b & Hpost & Hq & HK & Hb & Hcost & Hrisk).
    exists density. split; [exact Hpost|]. intros Most. apply (Rlt_not_le _ _ Hrisk).
    assert (HQ : 0 <= posterior_mean prior density (error_rate sample)).
    { apply posterior_mean_nonneg; [exact Hpost|]. intros h _. apply Rmult_le_pos; [apply pos_INR|].
      left. now apply Rinv_0_lt_compat, lt_0_INR. }
    apply (kl_inversion (posterior_mean prior density (error_rate sample)) _ b _ ltac:(lra) Hb) with (2 := Most).
    - rewrite <- (posterior_mean_const prior density Hpost 1). apply posterior_mean_le_on; [exact Hpost|].
      intros h _. apply risk_range.
    - apply Rle_trans with (kl q b); [|apply kl_decreasing_in_q; lra].
      assert (Hm : 0 < INR m) by now apply lt_0_INR. apply (Rmult_le_reg_l (INR m)); [exact Hm|].
      replace (INR m * ((divergence prior density + ln (c / delta)) / INR m))
        with (divergence prior density + ln (c / delta)) by (field; lra). lra.
  Qed.
End PacBayes.
