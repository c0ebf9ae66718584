(* Hoeffding's inequality for the mean of n i.i.d. values in [0, 1] (Hoeffding 1963, theorem 1; MLCERT's "Chernoff").

   With A = E X the expected value and mean X the mean over n draws, for every eps >= 0:
     P[A + eps <= mean X] <= exp(-2 eps^2 n),   P[mean X <= A - eps] <= exp(-2 eps^2 n),
     P[eps <= |mean X - A|] <= 2 exp(-2 eps^2 n).
   The usual proof: Markov's inequality for exp(s X), the chord of exp, and a bound of the Bernoulli moment generating
   function by its second derivative. Nothing is assumed of the distribution but that its support is finite. *)

Require Import Reals Lra Lia List.
From LeanMnist.generalization Require Import Distribution.
Import ListNotations.
Open Scope R_scope.

(* ---------- the moment generating function of a Bernoulli variable ---------- *)

Section Bernoulli.
  Variable p : R.
  Hypothesis p_range : 0 <= p <= 1.
  Let Z (s : R) := 1 - p + p * exp s.

  Lemma Z_pos s : 0 < Z s.
  Proof.
    unfold Z. pose proof (exp_pos s).
    destruct (Req_dec p 1) as [->|]; [lra|].
    assert (0 <= p * exp s) by (apply Rmult_le_pos; lra). lra.
  Qed.

  Let tilted s := p * exp s / Z s.
  Let gap s := p * s + s * s * / 8 - ln (Z s).
  Let gap' s := p + s * / 4 - tilted s.
  Let gap'' s := / 4 - tilted s * (1 - tilted s).

  Lemma Z_derivative s : derivable_pt_lim Z s (p * exp s).
  Proof.
    unfold Z.
    replace (p * exp s) with (0 + p * exp s) by ring.
    apply derivable_pt_lim_plus; [apply derivable_pt_lim_const|].
    apply (derivable_pt_lim_scal exp p s (exp s)), derivable_pt_lim_exp.
  Qed.

  Lemma gap_derivative s : derivable_pt_lim gap s (gap' s).
  Proof.
    pose proof (Z_pos s) as HZ. unfold gap, gap', tilted.
    apply (derivable_pt_lim_minus (fun s => p * s + s * s * / 8) (fun s => ln (Z s))).
    - replace (p + s * / 4) with (p * 1 + (1 * s + s * 1) * / 8) by field.
      apply (derivable_pt_lim_plus (fun s => p * s) (fun s => s * s * / 8)).
      + apply (derivable_pt_lim_scal id p), derivable_pt_lim_id.
      + replace ((1 * s + s * 1) * / 8) with ((1 * s + s * 1) * / 8 + (s * s) * 0) by ring.
        apply (derivable_pt_lim_mult (fun s => s * s) (fun _ => / 8)).
        * apply (derivable_pt_lim_mult id id); apply derivable_pt_lim_id.
        * apply derivable_pt_lim_const.
    - replace (p * exp s / Z s) with (/ Z s * (p * exp s)) by (field; lra).
      apply (derivable_pt_lim_comp Z ln); [apply Z_derivative | now apply derivable_pt_lim_ln].
  Qed.

  Lemma gap'_derivative s : derivable_pt_lim gap' s (gap'' s).
  Proof.
    pose proof (Z_pos s) as HZ. unfold gap', gap''.
    replace (/ 4 - tilted s * (1 - tilted s))
      with ((0 + (1 * / 4 + s * 0)) - ((p * exp s) * Z s - (p * exp s) * (p * exp s)) / Rsqr (Z s)).
    2:{ unfold tilted, Rsqr. field. lra. }
    apply (derivable_pt_lim_minus (fun s => p + s * / 4) tilted).
    - apply (derivable_pt_lim_plus (fun _ => p) (fun s => s * / 4)); [apply derivable_pt_lim_const|].
      apply (derivable_pt_lim_mult id (fun _ => / 4)); [apply derivable_pt_lim_id | apply derivable_pt_lim_const].
    - unfold tilted. apply (derivable_pt_lim_div (fun s => p * exp s) Z).
      + apply (derivable_pt_lim_scal exp p s (exp s)), derivable_pt_lim_exp.
      + apply Z_derivative.
      + lra.
  Qed.

  Lemma gap''_nonneg s : 0 <= gap'' s.
  Proof. unfold gap''. pose proof (Rle_0_sqr (tilted s - / 2)). unfold Rsqr in H. lra. Qed.

  (* 1 - p + p e^s <= e^(p s + s^2/8) for s >= 0. *)
  Lemma bernoulli_moment_bound s : 0 <= s -> 1 - p + p * exp s <= exp (p * s + s ^ 2 / 8).
  Proof.
    intros [Hs | <-].
    2:{ rewrite exp_0. replace (p * 0 + 0 ^ 2 / 8) with 0 by field. rewrite exp_0. lra. }
    assert (gap'_nonneg : forall c, 0 < c -> 0 <= gap' c).
    { intros c Hc.
      destruct (MVT_cor2 gap' gap'' 0 c Hc) as (x & Eq & _); [intros; apply gap'_derivative|].
      assert (gap' 0 = 0) by (unfold gap', tilted, Z; rewrite exp_0; field; lra).
      pose proof (gap''_nonneg x). assert (0 <= gap'' x * (c - 0)) by (apply Rmult_le_pos; lra). lra. }
    destruct (MVT_cor2 gap gap' 0 s Hs) as (c & Eq & Hc); [intros; apply gap_derivative|].
    assert (gap 0 = 0).
    { unfold gap, Z. rewrite exp_0. replace (1 - p + p * 1) with 1 by ring. rewrite ln_1. field. }
    assert (0 <= gap' c * (s - 0)) by (apply Rmult_le_pos; [apply gap'_nonneg|]; lra).
    assert (Hln : ln (Z s) <= p * s + s ^ 2 / 8) by (unfold gap in *; lra).
    change (1 - p + p * exp s) with (Z s).
    rewrite <- (exp_ln (Z s)) by apply Z_pos.
    destruct Hln as [Hln | ->]; [left; now apply exp_increasing | apply Rle_refl].
  Qed.
End Bernoulli.

(* ---------- exp ---------- *)

Lemma exp_le x y : x <= y -> exp x <= exp y.
Proof. intros [H | ->]; [left; now apply exp_increasing | apply Rle_refl]. Qed.

Lemma exp_pow x n : exp x ^ n = exp (INR n * x).
Proof.
  induction n; [simpl; now rewrite Rmult_0_l, exp_0|].
  rewrite S_INR. simpl. rewrite IHn, <- exp_plus. f_equal; ring.
Qed.

(* exp lies below its chord: e^(s x) <= 1 - x + x e^s for 0 <= x <= 1. *)
Lemma exp_chord s x : 0 <= x <= 1 -> exp (s * x) <= (1 - x) + x * exp s.
Proof.
  intros Hx. pose proof (exp_pos (s * x)).
  assert (A : exp (s * x) * (1 + (s - s * x)) <= exp s).
  { replace (exp s) with (exp (s * x) * exp (s - s * x)) by (rewrite <- exp_plus; f_equal; ring).
    apply Rmult_le_compat_l; [lra | apply exp_ineq1_le]. }
  assert (B : exp (s * x) * (1 + (- (s * x))) <= 1).
  { apply Rle_trans with (exp (s * x) * exp (- (s * x))).
    apply Rmult_le_compat_l; [lra | apply exp_ineq1_le]. rewrite <- exp_plus, Rplus_opp_r, exp_0; lra. }
  assert (x * (exp (s * x) * (1 + (s - s * x))) <= x * exp s) by (apply Rmult_le_compat_l; lra).
  assert ((1 - x) * (exp (s * x) * (1 + (- (s * x)))) <= (1 - x) * 1) by (apply Rmult_le_compat_l; lra).
  nra.
Qed.

(* ---------- the inequality ---------- *)

Definition mean {A} (X : A -> R) (sample : list A) : R := sum_over X sample / INR (length sample).

Section Hoeffding.
  Context {A : Type} (D : distribution A) (X : A -> R).
  Hypothesis X_range : forall a, 0 <= X a <= 1.

  Lemma expected_exp_le s : 0 <= s -> E D (fun a => exp (s * X a)) <= exp (E D X * s + s ^ 2 / 8).
  Proof.
    intros Hs. eapply Rle_trans; [|apply (bernoulli_moment_bound (E D X) (E_range D X X_range) s Hs)].
    apply Rle_trans with (E D (fun a => 1 + (exp s - 1) * X a)).
    - apply E_le; intros a. pose proof (exp_chord s (X a) (X_range a)). lra.
    - rewrite E_plus, E_const, E_scal. lra.
  Qed.

  Lemma exp_sum s sample : exp (s * sum_over X sample) = fold_right (fun a r => exp (s * X a) * r) 1 sample.
  Proof.
    induction sample as [|a sample IH]; [simpl; now rewrite Rmult_0_r, exp_0|].
    cbn [fold_right]. rewrite <- IH, sum_over_cons, Rmult_plus_distr_l. apply exp_plus.
  Qed.

  (* P[A + eps <= mean] <= exp(-2 eps^2 n) *)
  Theorem hoeffding_above n eps : 0 <= eps ->
    Prob (draws D n) (fun sample => E D X + eps <= mean X sample) <= exp (- 2 * eps ^ 2 * INR n).
  Proof.
    intros Heps. destruct n as [|n].
    { simpl INR. rewrite Rmult_0_r, exp_0. apply Prob_range. }
    assert (Hn : 0 < INR (S n)) by (apply lt_0_INR; lia). set (m := S n) in *.
    set (s := 4 * eps). assert (Hs : 0 <= s) by (unfold s; lra).
    set (bar := INR m * (E D X + eps)).
    apply Rle_trans with (E (draws D m) (fun sample => exp (- s * bar) * exp (s * sum_over X sample))).
    - apply E_draws_le; intros sample Hlen. rewrite <- exp_plus. apply indicator_le; [|intros; left; apply exp_pos].
      unfold mean. rewrite Hlen. intros H.
      assert (bar <= sum_over X sample).
      { apply (Rmult_le_compat_l (INR m)) in H; [|lra]. fold bar in H.
        replace (INR m * (sum_over X sample / INR m)) with (sum_over X sample) in H by (field; lra). exact H. }
      rewrite <- exp_0. apply exp_le.
      assert (0 <= s * (sum_over X sample - bar)) by (apply Rmult_le_pos; lra). lra.
    - rewrite E_scal, (E_ext _ _ _ (exp_sum s)), E_draws_product.
      apply Rle_trans with (exp (- s * bar) * exp (E D X * s + s ^ 2 / 8) ^ m).
      + apply Rmult_le_compat_l; [left; apply exp_pos | apply pow_incr]. split; [|now apply expected_exp_le].
        rewrite <- (E_const D 0). apply E_le; intros; left; apply exp_pos.
      + rewrite exp_pow, <- exp_plus. right. f_equal. unfold bar, s. field.
  Qed.
End Hoeffding.

Section TwoSides.
  Context {A : Type} (D : distribution A) (X : A -> R).
  Hypothesis X_range : forall a, 0 <= X a <= 1.

  Lemma mean_complement sample : sample <> [] -> mean (fun a => 1 - X a) sample = 1 - mean X sample.
  Proof.
    intros H. unfold mean.
    assert (Hlen : INR (length sample) <> 0) by (apply not_0_INR; destruct sample; easy).
    rewrite (sum_over_ext_on _ (fun a => 1 + -1 * X a)) by (intros; ring).
    rewrite sum_over_plus, sum_over_scal, sum_over_const. now field.
  Qed.

  (* P[mean <= A - eps] <= exp(-2 eps^2 n) *)
  Theorem hoeffding_below n eps : 0 <= eps ->
    Prob (draws D n) (fun sample => mean X sample <= E D X - eps) <= exp (- 2 * eps ^ 2 * INR n).
  Proof.
    intros Heps. destruct n as [|n].
    { simpl INR. rewrite Rmult_0_r, exp_0. apply Prob_range. }
    assert (Hrange : forall a, 0 <= 1 - X a <= 1) by (intros a; specialize (X_range a); lra).
    eapply Rle_trans; [|apply (hoeffding_above D _ Hrange _ _ Heps)].
    apply Prob_mono_on. intros sample I H. apply draws_length in I.
    rewrite E_complement, mean_complement by (intros ->; discriminate). lra.
  Qed.

  (* P[eps <= |mean - A|] <= 2 exp(-2 eps^2 n) *)
  Theorem hoeffding_two_sided n eps : 0 <= eps ->
    Prob (draws D n) (fun sample => eps <= Rabs (mean X sample - E D X)) <= 2 * exp (- 2 * eps ^ 2 * INR n).
  Proof.
    intros Heps.
    pose proof (hoeffding_above D X X_range n eps Heps). pose proof (hoeffding_below n eps Heps).
    apply Rle_trans with
      (Prob (draws D n) (fun sample => E D X + eps <= mean X sample \/ mean X sample <= E D X - eps)).
    - apply Prob_mono. intros sample. unfold Rabs. destruct (Rcase_abs _); intros; [right | left]; lra.
    - eapply Rle_trans; [apply Prob_or|]. lra.
  Qed.
End TwoSides.
