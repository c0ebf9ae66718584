(* The derivative of softmax: chainrule's backward of it, ds = p * (dp - sum_c p_c dp_c), is its vector-Jacobian
   product. Its Jacobian diag(p) - p p^T is a covariance, and bounded by 1/2. *)
Require Import Reals Lra Lia Psatz.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers gradients.CrossEntropy.
Open Scope R_scope.

(* E[w] under the probabilities p *)
Definition mean (C : nat) (p w : nat -> R) : R := sum C (fun c => p c * w c).

(* Along any curve of logits, p_c' = p_c (s_c' - sum_k p_k s_k'). *)
Theorem softmax_derivative C (s : R -> nat -> R) s' t c : (0 < C)%nat -> (c < C)%nat ->
  (forall k, (k < C)%nat -> is_derive (fun u => s u k) t (s' k)) ->
  is_derive (fun u => softmax C (s u) c) t (softmax C (s t) c * (s' c - mean C (softmax C (s t)) s')).
Proof.
  intros P Hc D.
  assert (L := log_sum_exp_derivative C s s' t P D). fold (mean C (softmax C (s t)) s') in L.
  assert (X := is_derive_minus (fun u => s u c) _ t _ _ (D c Hc) L).
  assert (E := is_derive_comp exp _ t _ _ (is_derive_exp _) X).
  assert (V : forall u, exp (minus (s u c) (ln (total_exp C (s u)))) = softmax C (s u) c).
  { intros u. assert (Z := total_exp_pos C (s u) P). unfold minus, plus, opp; simpl.
    rewrite exp_plus, exp_Ropp, exp_ln by auto. reflexivity. }
  apply (is_derive_ext _ _ t _ V) in E.
  replace (softmax C (s t) c * (s' c - mean C (softmax C (s t)) s'))
    with (scal (minus (s' c) (mean C (softmax C (s t)) s')) (exp (minus (s t c) (ln (total_exp C (s t)))))); [exact E|].
  rewrite V. unfold scal, minus, plus, opp; simpl; unfold mult; simpl. ring.
Qed.

(* The backward of chainrule.losses.softmax_backward, of one example with probabilities p. *)
Definition softmax_backward (C : nat) (p d_p : nat -> R) (c : nat) : R := p c * (d_p c - mean C p d_p).

(* d/dt <d_p, softmax(s)> = <softmax_backward p d_p, s'> *)
Theorem softmax_backward_is_vjp C (s : R -> nat -> R) s' t d_p : (0 < C)%nat ->
  (forall k, (k < C)%nat -> is_derive (fun u => s u k) t (s' k)) ->
  is_derive (fun u => sum C (fun c => d_p c * softmax C (s u) c)) t
    (sum C (fun c => softmax_backward C (softmax C (s t)) d_p c * s' c)).
Proof.
  intros P D. set (p := softmax C (s t)).
  replace (sum C (fun c => softmax_backward C p d_p c * s' c))
    with (sum C (fun c => d_p c * (p c * (s' c - mean C p s')))).
  - apply is_derive_sum. intros c Hc. apply (is_derive_scal (fun u => softmax C (s u) c)).
    now apply softmax_derivative.
  - unfold softmax_backward.
    rewrite (sum_ext C _ (fun c => p c * d_p c * s' c - mean C p s' * (p c * d_p c))) by (intros; ring).
    rewrite (sum_ext C (fun c => p c * (d_p c - mean C p d_p) * s' c)
               (fun c => p c * d_p c * s' c - mean C p d_p * (p c * s' c))) by (intros; ring).
    rewrite !sum_minus, !sum_scal. unfold mean. ring.
Qed.

(* Probabilities: nonnegative numbers that sum to 1. *)
Definition probabilities (C : nat) (p : nat -> R) : Prop :=
  (forall c, (c < C)%nat -> 0 <= p c) /\ sum C p = 1.

Lemma softmax_probabilities C s : (0 < C)%nat -> probabilities C (softmax C s).
Proof. intros P. split; [intros; left; now apply softmax_pos | now apply softmax_total]. Qed.

Lemma probability_at_most_1 C p c : probabilities C p -> (c < C)%nat -> p c <= 1.
Proof. intros [P T] Hc. rewrite <- T. now apply sum_ge_term. Qed.

Definition covariance (C : nat) (p a w : nat -> R) : R := sum C (fun c => p c * a c * w c) - mean C p a * mean C p w.
Definition square (C : nat) (w : nat -> R) : R := sum C (fun c => w c * w c).

Lemma covariance_nonneg C p w : probabilities C p -> 0 <= covariance C p w w.
Proof.
  intros [P T]. replace (covariance C p w w) with (sum C (fun c => p c * (w c - mean C p w) ^ 2)).
  - apply sum_nonneg. intros c Hc. apply Rmult_le_pos; [now apply P | apply pow2_ge_0].
  - set (m := mean C p w).
    rewrite (sum_ext C _ (fun c => (p c * w c * w c - 2 * m * (p c * w c)) + m * m * p c)) by (intros; ring).
    rewrite sum_plus, sum_minus, !sum_scal, T. fold (mean C p w). unfold covariance. fold m. ring.
Qed.

(* The variance is at most half the squared length: the Jacobian of softmax is bounded by 1/2. *)
Theorem variance_at_most_half C p w : probabilities C p -> covariance C p w w <= square C w / 2.
Proof.
  intros [P T].
  assert (G : sum C (fun i => p i * p i * (2 * w i) ^ 2)
              <= sum C (fun i => sum C (fun j => p i * p j * (w i + w j) ^ 2))).
  { apply sum_le. intros i Hi.
    replace (2 * w i) with (w i + w i) by ring.
    apply (sum_ge_term C (fun j => p i * p j * (w i + w j) ^ 2)); auto. intros j Hj.
    apply Rmult_le_pos; [apply Rmult_le_pos; now apply P | apply pow2_ge_0]. }
  set (m := mean C p w) in *.
  assert (Right : sum C (fun i => sum C (fun j => p i * p j * (w i + w j) ^ 2))
    = 2 * sum C (fun i => p i * w i * w i) + 2 * (m * m)).
  { rewrite (sum_ext C _ (fun i =>
      p i * w i * w i + 2 * m * (p i * w i) + sum C (fun j => p j * w j * w j) * p i)).
    2:{ intros i Hi. rewrite (sum_ext C _ (fun j =>
          p i * w i * w i * p j + 2 * (p i * w i) * (p j * w j) + p i * (p j * w j * w j))) by (intros; ring).
        rewrite !sum_plus, !sum_scal, T. fold (mean C p w). fold m. ring. }
    rewrite !sum_plus, !sum_scal, T. fold (mean C p w). fold m. ring. }
  rewrite Right in G.
  assert (Left : sum C (fun i => p i * p i * (2 * w i) ^ 2) = 4 * sum C (fun i => p i * p i * (w i * w i))).
  { rewrite <- sum_scal. apply sum_ext. intros; ring. }
  rewrite Left in G.
  assert (B : sum C (fun i => p i * w i * w i) - sum C (fun i => p i * p i * (w i * w i)) <= square C w / 4).
  { unfold square, Rdiv. rewrite <- sum_minus, <- sum_scal_r. apply sum_le. intros i Hi.
    assert (0 <= (w i * (p i - / 2)) ^ 2) by apply pow2_ge_0. nra. }
  unfold covariance. fold m. lra.
Qed.

(* |cov(a, w)| <= 1/2 |a| |w|, in the form without roots that is used below *)
Lemma covariance_bound C p a w : probabilities C p -> covariance C p a w <= square C a / 2 + square C w / 8.
Proof.
  intros P. assert (N := covariance_nonneg C p (fun c => 2 * a c - w c) P).
  assert (E : covariance C p (fun c => 2 * a c - w c) (fun c => 2 * a c - w c)
    = 4 * covariance C p a a - 4 * covariance C p a w + covariance C p w w).
  { unfold covariance, mean.
    rewrite (sum_ext C (fun c => p c * (2 * a c - w c) * (2 * a c - w c))
      (fun c => (4 * (p c * a c * a c) - 4 * (p c * a c * w c)) + p c * w c * w c)) by (intros; ring).
    rewrite (sum_ext C (fun c => p c * (2 * a c - w c)) (fun c => 2 * (p c * a c) - p c * w c)) by (intros; ring).
    rewrite sum_plus, !sum_minus, !sum_scal. ring. }
  assert (A := variance_at_most_half C p a P). assert (W := variance_at_most_half C p w P). lra.
Qed.
