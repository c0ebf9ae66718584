(* Properties of softmax cross-entropy in the logits, for any number C of classes and any label y < C.

   Bounds: log-sum-exp >= each logit; loss = -ln p_y >= 0, positive for C >= 2, with infimum 0 and no upper bound.
   Shape: convex; the gradient p - onehot(y) sums to 0, has entries in [-1, 1] and length at most sqrt 2, so the loss is
   sqrt 2-Lipschitz; the gradient is 1/2-Lipschitz. Convexity is proved with smoothing and penalty as well. *)
Require Import Reals Lra Lia Psatz.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers gradients.CrossEntropy gradients.Softmax.
Open Scope R_scope.

Definition loss (C y : nat) (s : nat -> R) : R := cross_entropy 0 0 C y s.
Definition loss_gradient (C y : nat) (s : nat -> R) : nat -> R := cross_entropy_gradient 0 0 C y s.
Definition log_sum_exp (C : nat) (s : nat -> R) : R := ln (total_exp C s).

Lemma loss_is C y s : (y < C)%nat -> loss C y s = log_sum_exp C s - s y.
Proof. apply cross_entropy_is. Qed.

(* log sum_k e^(s_k) >= s_j *)
Theorem log_sum_exp_at_least_each C s j : (j < C)%nat -> s j <= log_sum_exp C s.
Proof.
  intros J. rewrite <- (ln_exp (s j)). apply Rcomplements.ln_le; [apply exp_pos|].
  apply (sum_ge_term C (fun c => exp (s c))); auto. intros; left; apply exp_pos.
Qed.

Theorem loss_nonnegative C y s : (y < C)%nat -> 0 <= loss C y s.
Proof. intros Y. rewrite loss_is by auto. assert (L := log_sum_exp_at_least_each C s y Y). lra. Qed.

(* loss = -ln p_y, and with two classes or more it is positive. *)
Theorem loss_is_minus_log_probability C y s : (y < C)%nat -> loss C y s = - ln (softmax C s y).
Proof.
  intros Y. assert (Z := total_exp_pos C s ltac:(lia)). rewrite loss_is by auto. unfold softmax.
  rewrite ln_div, ln_exp by (auto using exp_pos). unfold log_sum_exp. ring.
Qed.

Theorem loss_positive C y s : (2 <= C)%nat -> (y < C)%nat -> 0 < loss C y s.
Proof.
  intros C2 Y. rewrite loss_is by auto. assert (E : exp (s y) < total_exp C s).
  { destruct (Nat.eq_dec y 0) as [->|N].
    - assert (G : forall n, exp (s 0%nat) < total_exp (S (S n)) s).
      { induction n as [|n IH]; unfold total_exp in *; simpl; real; [|].
        - assert (A := exp_pos (s 1%nat)). lra.
        - assert (A := exp_pos (s (S (S n)))). simpl in IH. real. lra. }
      destruct C as [|[|n]]; try lia. apply G.
    - assert (G : sum C (fun c => onehot 0 c * exp (s c)) + sum C (fun c => onehot y c * exp (s c)) <= total_exp C s).
      { rewrite <- sum_plus. apply sum_le. intros c Hc. unfold onehot. real. assert (A := exp_pos (s c)).
        destruct (Nat.eqb_spec c 0), (Nat.eqb_spec c y); subst; try lia; lra. }
      rewrite !sum_onehot in G by lia. assert (A := exp_pos (s 0%nat)). lra. }
  apply ln_increasing in E; [|apply exp_pos]. rewrite ln_exp in E. unfold log_sum_exp. lra.
Qed.

(* Along any sequence of logits the loss tends to 0 exactly where the probability of the label tends to 1. *)
Theorem loss_tends_to_0_iff C y (s : nat -> nat -> R) : (y < C)%nat ->
  is_lim_seq (fun n => loss C y (s n)) 0 <-> is_lim_seq (fun n => softmax C (s n) y) 1.
Proof.
  intros Y. assert (P : forall n, 0 < softmax C (s n) y) by (intros; apply softmax_pos; lia). split; intros L.
  - apply (is_lim_seq_ext (fun n => exp (- loss C y (s n)))).
    { intros n. rewrite loss_is_minus_log_probability, Ropp_involutive, exp_ln by auto. reflexivity. }
    rewrite <- exp_0. apply is_lim_seq_continuous; [apply derivable_continuous_pt, derivable_pt_exp|].
    replace (Finite 0) with (Rbar_opp 0) by (simpl; f_equal; ring). now apply (is_lim_seq_opp _ 0).
  - apply (is_lim_seq_ext (fun n => - ln (softmax C (s n) y))).
    { intros n. now rewrite loss_is_minus_log_probability. }
    replace (Finite 0) with (Rbar_opp (ln 1)) by (simpl; f_equal; rewrite ln_1; ring).
    apply (is_lim_seq_opp _ (ln 1)). apply is_lim_seq_continuous; [|exact L].
    apply derivable_continuous_pt. exists (/ 1). apply derivable_pt_lim_ln. lra.
Qed.

(* The infimum of the loss is 0, and it has no upper bound. *)
Theorem loss_infimum_is_0 C y : (y < C)%nat ->
  (forall s, 0 <= loss C y s) /\ forall eps, 0 < eps -> exists s, loss C y s < eps.
Proof.
  intros Y. split; [intros s; now apply loss_nonnegative|].
  intros eps E. set (t := ln ((INR C + 1) / eps)). assert (N : 0 <= INR C) by apply pos_INR.
  assert (Q : 0 < (INR C + 1) / eps) by (apply Rdiv_lt_0_compat; lra).
  exists (fun c => t * onehot y c). rewrite loss_is by auto.
  assert (Ty : t * onehot y y = t) by (unfold onehot; rewrite Nat.eqb_refl; real; ring). rewrite Ty.
  assert (G : total_exp C (fun c => t * onehot y c) <= exp t * (1 + INR C * exp (- t))).
  { unfold total_exp.
    apply Rle_trans with (sum C (fun c => onehot y c * exp t + 1)).
    - apply sum_le. intros c _. unfold onehot. real. assert (A := exp_pos t).
      destruct (Nat.eqb c y); rewrite ?Rmult_1_r, ?Rmult_0_r, ?exp_0; lra.
    - rewrite sum_plus, sum_onehot by auto.
      rewrite sum_const, Rmult_plus_distr_l, !Rmult_1_r.
      replace (exp t * (INR C * exp (- t))) with (INR C * (exp t * exp (- t))) by ring.
      rewrite <- exp_plus, Rplus_opp_r, exp_0. lra. }
  assert (Z : 0 < total_exp C (fun c => t * onehot y c)) by (apply total_exp_pos; lia).
  apply Rcomplements.ln_le in G; [|exact Z]. assert (A := exp_pos (- t)).
  assert (B : 0 <= INR C * exp (- t)) by (apply Rmult_le_pos; lra).
  rewrite ln_mult, ln_exp in G by (try apply exp_pos; lra).
  assert (H : ln (1 + INR C * exp (- t)) <= INR C * exp (- t)).
  { rewrite <- (ln_exp (INR C * exp (- t))) at 2. apply Rcomplements.ln_le; [lra | apply exp_ineq1_le]. }
  assert (X : INR C * exp (- t) < eps).
  { unfold t. rewrite exp_Ropp, exp_ln by exact Q.
    replace (INR C * / ((INR C + 1) / eps)) with (eps * (INR C / (INR C + 1))) by (field; lra).
    rewrite <- (Rmult_1_r eps) at 2. apply Rmult_lt_compat_l; [exact E|].
    apply Rmult_lt_reg_r with (INR C + 1); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
  unfold log_sum_exp. lra.
Qed.

Theorem loss_unbounded C y bound : (2 <= C)%nat -> (y < C)%nat -> exists s, bound < loss C y s.
Proof.
  intros C2 Y. exists (fun c => if Nat.eqb c y then 0 else bound + 1). rewrite loss_is, Nat.eqb_refl by auto.
  set (s := fun c => if Nat.eqb c y then 0 else bound + 1).
  assert (E : exists k, (k < C)%nat /\ k <> y).
  { destruct (Nat.eq_dec y 0); [exists 1%nat | exists 0%nat]; lia. }
  destruct E as [k [K N]]. assert (L := log_sum_exp_at_least_each C s k K). unfold s in L at 1.
  destruct (Nat.eqb_spec k y); [contradiction|]. lra.
Qed.

(* With softmax applied twice, as the loss that LEAN_mnist reports, the loss never falls below ln(1 + (C - 1) / e):
   1.4611 (and some) for ten classes. *)
Theorem twice_softmax_floor C y s : (y < C)%nat -> ln (1 + INR (C - 1) * exp (-1)) <= loss C y (softmax C s).
Proof.
  intros Y. set (p := softmax C s). assert (P := softmax_probabilities C s ltac:(lia)). fold p in P.
  assert (Z := total_exp_pos C p ltac:(lia)). assert (N : 0 <= INR (C - 1)) by apply pos_INR.
  assert (E := exp_pos (-1)). assert (M : 0 <= INR (C - 1) * exp (-1)) by (apply Rmult_le_pos; lra).
  rewrite loss_is by auto. unfold log_sum_exp.
  rewrite <- (ln_exp (p y)), <- ln_div by (auto using exp_pos).
  apply Rcomplements.ln_le; [lra|]. apply Rmult_le_reg_r with (exp (p y)); [apply exp_pos|].
  unfold Rdiv. rewrite Rmult_assoc, Rinv_l, Rmult_1_r by (apply Rgt_not_eq, exp_pos).
  replace ((1 + INR (C - 1) * exp (-1)) * exp (p y))
    with (sum C (fun c => onehot y c * (exp (p y) - exp (-1) * exp (p y)) + exp (-1) * exp (p y))).
  - apply sum_le. intros c Hc. rewrite <- exp_plus. assert (p y <= 1) by (apply (probability_at_most_1 C); auto).
    assert (0 <= p c) by (now apply P). unfold onehot. real. destruct (Nat.eqb_spec c y) as [->|]; [lra|].
    assert (exp (-1 + p y) <= exp (p c)); [|lra]. destruct (Req_dec (-1 + p y) (p c)) as [->|]; [lra|].
    left. apply exp_increasing. lra.
  - rewrite sum_plus, sum_onehot, sum_const, minus_INR by (auto; lia). simpl. ring.
Qed.

(* The tangent lies below: loss(v) >= loss(u) + <gradient(u), v - u>. *)
Theorem loss_above_tangent e penalty C y u v : (0 < C)%nat -> 0 <= penalty ->
  cross_entropy e penalty C y u + sum C (fun c => cross_entropy_gradient e penalty C y u c * (v c - u c))
  <= cross_entropy e penalty C y v.
Proof.
  intros P Pen. set (p := softmax C u). set (m := mean C p (fun c => v c - u c)).
  assert (Zu := total_exp_pos C u P). assert (Zv := total_exp_pos C v P).
  assert (J : exp m <= sum C (fun c => p c * exp (v c - u c))).
  { apply Rle_trans with (sum C (fun c => p c * (exp m * (1 + ((v c - u c) - m))))).
    - rewrite (sum_ext C _ (fun c => exp m * (1 - m) * p c + exp m * (p c * (v c - u c)))) by (intros; ring).
      rewrite sum_plus, !sum_scal. unfold p at 1. rewrite softmax_total by auto. fold (mean C p (fun c => v c - u c)).
      fold m. lra.
    - apply sum_le. intros c Hc. apply Rmult_le_compat_l; [left; now apply softmax_pos|].
      replace (v c - u c) with (m + ((v c - u c) - m)) at 2 by ring. rewrite exp_plus.
      apply Rmult_le_compat_l; [left; apply exp_pos | apply exp_ineq1_le]. }
  assert (R : sum C (fun c => p c * exp (v c - u c)) = total_exp C v / total_exp C u).
  { unfold total_exp at 1, Rdiv. rewrite <- sum_scal_r. apply sum_ext. intros c _. unfold p, softmax.
    replace (v c) with (u c + (v c - u c)) at 2 by ring. rewrite exp_plus. field. lra. }
  rewrite R in J. apply Rcomplements.ln_le in J; [|apply exp_pos]. rewrite ln_exp, ln_div in J by auto.
  assert (S : 0 <= sum C (fun c => (v c - u c) * (v c - u c))).
  { apply sum_nonneg. intros c _. apply Rle_0_sqr. }
  unfold cross_entropy, cross_entropy_gradient.
  rewrite (sum_ext C (fun c => (softmax C u c - smoothed e C y c + penalty * u c) * (v c - u c))
    (fun c => (p c * (v c - u c) - (smoothed e C y c * v c - smoothed e C y c * u c))
              + penalty / 2 * (v c * v c - u c * u c - (v c - u c) * (v c - u c)))).
  2:{ intros c _. unfold p. field. }
  rewrite sum_plus, sum_scal, !sum_minus. fold (mean C p (fun c => v c - u c)). fold m.
  assert (0 <= penalty / 2 * sum C (fun c => (v c - u c) * (v c - u c))) by (apply Rmult_le_pos; lra). nra.
Qed.

(* loss(a u + (1 - a) v) <= a loss(u) + (1 - a) loss(v) *)
Theorem loss_convex e penalty C y u v a : (0 < C)%nat -> 0 <= penalty -> 0 <= a <= 1 ->
  cross_entropy e penalty C y (fun c => a * u c + (1 - a) * v c)
  <= a * cross_entropy e penalty C y u + (1 - a) * cross_entropy e penalty C y v.
Proof.
  intros P Pen A. set (w := fun c => a * u c + (1 - a) * v c).
  assert (U := loss_above_tangent e penalty C y w u P Pen). assert (V := loss_above_tangent e penalty C y w v P Pen).
  set (g := cross_entropy_gradient e penalty C y w) in *.
  assert (Z : a * sum C (fun c => g c * (u c - w c)) + (1 - a) * sum C (fun c => g c * (v c - w c)) = 0).
  { rewrite <- !sum_scal, <- sum_plus. rewrite <- (sum_zero C). apply sum_ext. intros c _. unfold w. ring. }
  apply Rmult_le_compat_l with (r := a) in U; [|lra]. apply Rmult_le_compat_l with (r := 1 - a) in V; [|lra]. lra.
Qed.

(* sum_k dloss/ds_k = 0, also with smoothing *)
Theorem gradient_sums_to_zero e C y s : (y < C)%nat -> sum C (cross_entropy_gradient e 0 C y s) = 0.
Proof.
  intros Y. unfold cross_entropy_gradient.
  rewrite (sum_ext C _ (fun c => softmax C s c - smoothed e C y c)) by (intros; ring).
  rewrite sum_minus. change (sum C (fun c => softmax C s c)) with (sum C (softmax C s)).
  change (sum C (fun c => smoothed e C y c)) with (sum C (smoothed e C y)).
  rewrite softmax_total, smoothed_total by lia. ring.
Qed.

(* -1 <= dloss/ds_k <= 1 *)
Theorem gradient_entries_bounded C y s c : (y < C)%nat -> (c < C)%nat -> -1 <= loss_gradient C y s c <= 1.
Proof.
  intros Y Hc. unfold loss_gradient. rewrite gradient_is_p_minus_onehot.
  assert (L := softmax_pos C s c ltac:(lia)).
  assert (U := probability_at_most_1 C _ c (softmax_probabilities C s ltac:(lia)) Hc).
  unfold onehot. real. destruct (Nat.eqb c y); lra.
Qed.

(* |p - onehot(y)|^2 <= 2 *)
Theorem gradient_length_at_most_sqrt_2 C y s : (y < C)%nat -> sqrt (square C (loss_gradient C y s)) <= sqrt 2.
Proof.
  intros Y. apply sqrt_le_1_alt. assert (P := softmax_probabilities C s ltac:(lia)). set (p := softmax C s) in *.
  apply Rle_trans with (sum C (fun c => p c + onehot y c * (1 - 2 * p c))).
  - apply sum_le. intros c Hc. unfold loss_gradient. rewrite gradient_is_p_minus_onehot. fold p.
    assert (p c <= 1) by (apply (probability_at_most_1 C); auto). assert (0 <= p c) by (now apply P).
    assert (p c * p c <= p c) by nra. unfold onehot. real. destruct (Nat.eqb c y); lra.
  - rewrite sum_plus, sum_onehot by auto. destruct P as [P T]. rewrite T. specialize (P y Y). lra.
Qed.

Lemma cauchy_schwarz n a b :
  sum n (fun i => a i * b i) * sum n (fun i => a i * b i) <= square n a * square n b.
Proof.
  assert (N : 0 <= sum n (fun i => sum n (fun j => (a i * b j - a j * b i) ^ 2))).
  { apply sum_nonneg. intros i _. apply sum_nonneg. intros j _. apply pow2_ge_0. }
  rewrite (sum_ext n _ (fun i => a i * a i * square n b + square n a * (b i * b i)
             - 2 * (sum n (fun k => a k * b k) * (a i * b i)))) in N.
  2:{ intros i _. unfold square. rewrite (sum_ext n _ (fun j => a i * a i * (b j * b j) + b i * b i * (a j * a j)
        - 2 * (a i * b i) * (a j * b j))) by (intros; ring).
      rewrite sum_minus, sum_plus, !sum_scal. ring. }
  rewrite sum_minus, sum_plus, sum_scal_r, !sum_scal in N. fold (square n a) (square n b) in N. lra.
Qed.

(* |loss(u) - loss(v)| <= sqrt 2 |u - v| *)
Theorem loss_lipschitz C y u v : (y < C)%nat ->
  Rabs (loss C y u - loss C y v) <= sqrt 2 * sqrt (square C (fun c => u c - v c)).
Proof.
  intros Y.
  assert (G : forall u v, loss C y u - loss C y v <= sqrt 2 * sqrt (square C (fun c => u c - v c))).
  { clear u v. intros u v. assert (T := loss_above_tangent 0 0 C y u v ltac:(lia) ltac:(lra)).
    fold (loss C y u) (loss C y v) (loss_gradient C y u) in T.
    assert (S : sum C (fun c => loss_gradient C y u c * (v c - u c))
      = - sum C (fun c => loss_gradient C y u c * (u c - v c))).
    { rewrite <- (Rmult_1_l (sum C (fun c => loss_gradient C y u c * (u c - v c)))), <- Ropp_mult_distr_l_reverse.
      rewrite <- sum_scal. apply sum_ext. intros c _. ring. }
    rewrite S in T.
    assert (K := cauchy_schwarz C (loss_gradient C y u) (fun c => u c - v c)).
    set (i := sum C (fun c => loss_gradient C y u c * (u c - v c))) in *.
    assert (A : 0 <= square C (loss_gradient C y u)) by (apply sum_nonneg; intros; apply Rle_0_sqr).
    assert (B : 0 <= square C (fun c => u c - v c)) by (apply sum_nonneg; intros; apply Rle_0_sqr).
    apply Rle_trans with i; [lra|]. apply Rle_trans with (Rabs i); [apply Rle_abs|].
    rewrite <- sqrt_Rsqr_abs. unfold Rsqr.
    apply Rle_trans with (sqrt (square C (loss_gradient C y u) * square C (fun c => u c - v c))).
    - now apply sqrt_le_1_alt.
    - rewrite sqrt_mult by auto.
      apply Rmult_le_compat_r; [apply sqrt_pos | now apply gradient_length_at_most_sqrt_2]. }
  apply Rabs_le. split; [|apply G].
  assert (X := G v u). replace (square C (fun c => v c - u c)) with (square C (fun c => u c - v c)) in X.
  { lra. } unfold square. apply sum_ext. intros c _. ring.
Qed.

(* |gradient(v) - gradient(u)| <= 1/2 |v - u| *)
Theorem gradient_lipschitz C y u v : (y < C)%nat ->
  sqrt (square C (fun c => loss_gradient C y v c - loss_gradient C y u c))
  <= / 2 * sqrt (square C (fun c => v c - u c)).
Proof.
  intros Y. assert (P : (0 < C)%nat) by lia. set (d := fun c => v c - u c).
  set (a := fun c => loss_gradient C y v c - loss_gradient C y u c).
  assert (Ha : forall c, a c = softmax C v c - softmax C u c).
  { intros c. unfold a, loss_gradient. rewrite !gradient_is_p_minus_onehot. ring. }
  set (s := fun (t : R) c => u c + t * d c).
  assert (D : forall t k, (k < C)%nat -> is_derive (fun t => s t k) t (d k)) by (intros; apply is_derive_line).
  set (f := fun t => sum C (fun c => a c * softmax C (s t) c)).
  set (f' := fun t => sum C (fun c => softmax_backward C (softmax C (s t)) a c * d c)).
  assert (F : forall t, is_derive f t (f' t)) by (intros t; apply (softmax_backward_is_vjp C s d t a P); auto).
  destruct (MVT_gen f 0 1 f') as [t [_ E]].
  { intros; apply F. }
  { intros x _. apply derivable_continuous_pt. exists (f' x). apply is_derive_Reals, F. }
  assert (F' : f' t = covariance C (softmax C (s t)) a d).
  { unfold f', softmax_backward, covariance.
    rewrite (sum_ext C _ (fun c => softmax C (s t) c * a c * d c
      - mean C (softmax C (s t)) a * (softmax C (s t) c * d c))) by (intros; ring).
    rewrite sum_minus, sum_scal. reflexivity. }
  assert (E1 : f 1 - f 0 = square C a).
  { unfold f, square. rewrite <- sum_minus. apply sum_ext. intros c _.
    assert (S1 : softmax C (s 1) c = softmax C v c) by (apply softmax_ext; intros; unfold s, d; ring).
    assert (S0 : softmax C (s 0) c = softmax C u c) by (apply softmax_ext; intros; unfold s, d; ring).
    rewrite S1, S0, (Ha c). ring. }
  rewrite E1, F' in E.
  assert (B := covariance_bound C (softmax C (s t)) a d (softmax_probabilities C (s t) P)).
  assert (Q : square C a <= / 4 * square C d) by lra.
  apply Rle_trans with (sqrt (/ 4 * square C d)); [now apply sqrt_le_1_alt|].
  replace (/ 4) with (/ 2 * / 2) by lra. rewrite sqrt_mult, sqrt_square by
    (try lra; apply sum_nonneg; intros; apply Rle_0_sqr). lra.
Qed.
