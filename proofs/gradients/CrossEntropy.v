(* Softmax cross-entropy, with label smoothing e and a penalty l on the logits, fused as in chainrule/losses.py:

     loss = log sum_c e^(s_c) - sum_c q_c s_c + (l/2) sum_c s_c^2,   q = (1 - e) onehot(y) + e / C
     ds   = (p - q + l s) * dloss,                                   p = softmax(s)

   and the squared error; both on a batch, weighted by the upstream gradients of the losses. The code shifts the logits
   of an example by their largest before it exponentiates; `shifted_loss` is that neither value depends on the shift. *)
Require Import Reals Lra Lia List Psatz.
From Coquelicot Require Import Coquelicot.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers gradients.Dense
  gradients.MlpGradient.
Open Scope R_scope.

Definition total_exp (C : nat) (s : nat -> R) : R := sum C (fun c => exp (s c)).
Definition softmax (C : nat) (s : nat -> R) (c : nat) : R := exp (s c) / total_exp C s.
Definition smoothed (e : R) (C y c : nat) : R := (1 - e) * onehot y c + e / INR C.

(* of one example with logits s *)
Definition cross_entropy (e penalty : R) (C y : nat) (s : nat -> R) : R :=
  ln (total_exp C s) - sum C (fun c => smoothed e C y c * s c) + penalty / 2 * sum C (fun c => s c * s c).
Definition cross_entropy_gradient (e penalty : R) (C y : nat) (s : nat -> R) (c : nat) : R :=
  softmax C s c - smoothed e C y c + penalty * s c.

Lemma total_exp_pos C s : (0 < C)%nat -> 0 < total_exp C s.
Proof. intros P. apply sum_pos; [auto | intros; apply exp_pos]. Qed.

Lemma softmax_pos C s c : (0 < C)%nat -> 0 < softmax C s c.
Proof. intros P. apply Rdiv_lt_0_compat; [apply exp_pos | now apply total_exp_pos]. Qed.

Lemma softmax_total C s : (0 < C)%nat -> sum C (softmax C s) = 1.
Proof.
  intros P. assert (Z := total_exp_pos C s P). unfold softmax, Rdiv. rewrite sum_scal_r. fold (total_exp C s).
  field. lra.
Qed.

Lemma softmax_ext C u v c : (forall k, u k = v k) -> softmax C u c = softmax C v c.
Proof. intros E. unfold softmax, total_exp. rewrite E. f_equal. apply sum_ext. intros. now rewrite E. Qed.

Lemma smoothed_total e C y : (y < C)%nat -> sum C (smoothed e C y) = 1.
Proof.
  intros Y. unfold smoothed. rewrite sum_plus, sum_scal.
  rewrite sum_const, (sum_ext C (onehot y) (fun c => onehot y c * 1)) by (intros; now rewrite Rmult_1_r).
  rewrite sum_onehot by auto. field. apply not_0_INR. lia.
Qed.

(* The derivative of the log-sum-exp along a curve of logits is <softmax, s'>. *)
Lemma log_sum_exp_derivative C (s : R -> nat -> R) s' t : (0 < C)%nat ->
  (forall c, (c < C)%nat -> is_derive (fun u => s u c) t (s' c)) ->
  is_derive (fun u => ln (total_exp C (s u))) t (sum C (fun c => softmax C (s t) c * s' c)).
Proof.
  intros P D. assert (Z := total_exp_pos C (s t) P).
  assert (E : is_derive (fun u => total_exp C (s u)) t (sum C (fun c => s' c * exp (s t c)))).
  { apply is_derive_sum. intros c Hc. apply (is_derive_comp exp (fun u => s u c)); [apply is_derive_exp | auto]. }
  assert (L := is_derive_comp ln (fun u => total_exp C (s u)) t _ _ (is_derive_ln _ Z) E).
  replace (sum C (fun c => softmax C (s t) c * s' c))
    with (scal (sum C (fun c => s' c * exp (s t c))) (/ total_exp C (s t))); [exact L|].
  unfold scal; simpl; unfold mult; simpl. rewrite <- sum_scal_r.
  apply sum_ext. intros c _. unfold softmax. field. lra.
Qed.

(* The derivative of one example's loss along any curve of logits is <p - q + penalty s, s'>. *)
Theorem cross_entropy_derivative e penalty C y (s : R -> nat -> R) s' t : (0 < C)%nat ->
  (forall c, (c < C)%nat -> is_derive (fun u => s u c) t (s' c)) ->
  is_derive (fun u => cross_entropy e penalty C y (s u)) t
    (sum C (fun c => cross_entropy_gradient e penalty C y (s t) c * s' c)).
Proof.
  intros P D. unfold cross_entropy, cross_entropy_gradient.
  rewrite (sum_ext C _ (fun c =>
    (softmax C (s t) c * s' c - smoothed e C y c * s' c) + penalty / 2 * (2 * s t c * s' c))) by (intros; field).
  rewrite sum_plus, sum_minus, sum_scal.
  apply (is_derive_plus (fun u => ln (total_exp C (s u)) - sum C (fun c => smoothed e C y c * s u c))
          (fun u => penalty / 2 * sum C (fun c => s u c * s u c))).
  - apply (is_derive_minus (fun u => ln (total_exp C (s u)))); [now apply log_sum_exp_derivative|].
    apply is_derive_sum. intros c Hc. apply (is_derive_scal (fun u => s u c)). auto.
  - apply (is_derive_scal (fun u => sum C (fun c => s u c * s u c))). apply is_derive_sum. intros c Hc.
    replace (2 * s t c * s' c) with (plus (mult (s' c) (s t c)) (mult (s t c) (s' c)))
      by (unfold plus, mult; simpl; ring).
    apply (is_derive_mult (fun u => s u c) (fun u => s u c)); auto. intros; apply Rmult_comm.
Qed.

(* Without smoothing and penalty, loss = log sum_c e^(s_c) - s_y, and its gradient is p - onehot(y). *)
Theorem cross_entropy_is C y s : (y < C)%nat -> cross_entropy 0 0 C y s = ln (total_exp C s) - s y.
Proof.
  intros Y. unfold cross_entropy, smoothed. rewrite (sum_ext C _ (fun c => onehot y c * s c)).
  - rewrite sum_onehot by auto. unfold Rdiv. ring.
  - intros; unfold Rdiv; ring.
Qed.

Theorem gradient_is_p_minus_onehot C y s c :
  cross_entropy_gradient 0 0 C y s c = softmax C s c - onehot y c.
Proof. unfold cross_entropy_gradient, smoothed, Rdiv. ring. Qed.

Theorem p_minus_onehot_is_derivative C y (s : R -> nat -> R) s' t : (y < C)%nat ->
  (forall c, (c < C)%nat -> is_derive (fun u => s u c) t (s' c)) ->
  is_derive (fun u => ln (total_exp C (s u)) - s u y) t (sum C (fun c => (softmax C (s t) c - onehot y c) * s' c)).
Proof.
  intros Y D. apply (is_derive_ext (fun u => cross_entropy 0 0 C y (s u))); [intros; now apply cross_entropy_is|].
  rewrite <- (sum_ext C (fun c => cross_entropy_gradient 0 0 C y (s t) c * s' c)).
  - apply cross_entropy_derivative; [lia | exact D].
  - intros c _. now rewrite gradient_is_p_minus_onehot.
Qed.

(* The loss as the code computes it, of logits shifted by any m, is the loss; and the softmax does not depend on m. *)
Theorem shifted_loss e penalty C y s m : (y < C)%nat ->
  let u := fun c => s c - m in
  ln (total_exp C u) - ((1 - e) * u y + e * (sum C u / INR C)) + penalty / 2 * sum C (fun c => s c * s c)
  = cross_entropy e penalty C y s
  /\ forall c, softmax C u c = softmax C s c.
Proof.
  intros Y u. assert (P : (0 < C)%nat) by lia. assert (Z := total_exp_pos C s P). assert (Em := exp_pos (- m)).
  assert (T : total_exp C u = exp (- m) * total_exp C s).
  { unfold total_exp. rewrite <- sum_scal. apply sum_ext. intros c _. rewrite <- exp_plus. unfold u. f_equal. ring. }
  split.
  - rewrite T, ln_mult, ln_exp by auto. unfold cross_entropy. f_equal.
    assert (Q : sum C (fun c => smoothed e C y c * u c) = sum C (fun c => smoothed e C y c * s c) - m).
    { transitivity (sum C (fun c => smoothed e C y c * s c) - sum C (smoothed e C y) * m);
        [|rewrite smoothed_total by auto; ring].
      rewrite <- sum_scal_r, <- sum_minus. apply sum_ext. intros; unfold u; ring. }
    assert (S : sum C (fun c => smoothed e C y c * u c) = (1 - e) * u y + e * (sum C u / INR C)).
    { unfold smoothed.
      rewrite (sum_ext C _ (fun c => (1 - e) * (onehot y c * u c) + e / INR C * u c)) by (intros; ring).
      rewrite sum_plus, !sum_scal, sum_onehot by auto. unfold Rdiv. change (fun i => u i) with u. ring. }
    rewrite <- S, Q. ring.
  - intros c. unfold softmax. rewrite T. unfold u. replace (s c - m) with (- m + s c) by ring. rewrite exp_plus.
    field. lra.
Qed.

(* On a batch, with one upstream gradient an example: total = sum_b dloss_b * loss_b. *)
Definition batch_cross_entropy e penalty B C (y : nat -> nat) (d_loss : vector R) (s : matrix R) : R :=
  sum B (fun b => item d_loss b * cross_entropy e penalty C (y b) (entry s b)).
Definition cross_entropy_backward e penalty B C (y : nat -> nat) (s : matrix R) (d_loss : vector R) : matrix R :=
  build B C (fun b c => cross_entropy_gradient e penalty C (y b) (entry s b) c * item d_loss b).

Theorem cross_entropy_gradient_in_logits e penalty B C y d_loss s : (0 < C)%nat ->
  gradient_in_logits B C (batch_cross_entropy e penalty B C y d_loss) s
    (cross_entropy_backward e penalty B C y s d_loss).
Proof.
  intros P curve s' Here M. unfold batch_cross_entropy, inner. apply is_derive_sum. intros b Hb.
  rewrite (sum_ext C _ (fun c =>
    item d_loss b * (cross_entropy_gradient e penalty C (y b) (entry (curve 0) b) c * entry s' b c))).
  2:{ intros c Hc. unfold cross_entropy_backward. rewrite entry_build by auto. rewrite Here. ring. }
  rewrite sum_scal. apply (is_derive_scal (fun t => cross_entropy e penalty C (y b) (entry (curve t) b))).
  apply cross_entropy_derivative; [exact P | intros c Hc; now apply M].
Qed.

(* The mean over the batch has the upstream gradient 1/B for every example. *)
Definition mean_loss e penalty B C (y : nat -> nat) (s : matrix R) : R :=
  sum B (fun b => cross_entropy e penalty C (y b) (entry s b)) / INR B.
Definition mean_backward (B : nat) : vector R := tabulate B (fun _ => 1 / INR B).

Theorem mean_loss_gradient_in_logits e penalty B C y s : (0 < C)%nat ->
  gradient_in_logits B C (mean_loss e penalty B C y) s
    (cross_entropy_backward e penalty B C y s (mean_backward B)).
Proof.
  intros P curve s' Here M.
  apply (is_derive_ext (fun t => batch_cross_entropy e penalty B C y (mean_backward B) (curve t))).
  - intros t. unfold batch_cross_entropy, mean_loss, Rdiv. rewrite <- sum_scal_r. apply sum_ext. intros b Hb.
    unfold mean_backward. rewrite item_tabulate by auto. in_reals. unfold Rdiv. ring.
  - now apply cross_entropy_gradient_in_logits.
Qed.

(* The theorem of the trainer: the derivative of the mean softmax cross-entropy of a network over a batch, with label
   smoothing and penalty, along any direction in all weights, biases and the input, is <manual backward, direction>. *)
Theorem mean_cross_entropy_backward_is_derivative act B D x x' hidden last directions of_last e penalty y :
  (0 < units last)%nat -> shaped B D x -> length directions = length hidden -> off_the_kinks act B D x hidden ->
  let d_s := cross_entropy_backward e penalty B (units last) y (logits act B D x hidden last) (mean_backward B) in
  let g := gradients act B D x hidden last d_s in
  is_derive
    (fun t => mean_loss e penalty B (units last) y
      (logits act B D (line B D x x' t) (moved_all D hidden directions t) (moved (width D hidden) last of_last t)))
    0 (inner B D (fst g) x' + pairing D hidden last (snd g) directions of_last).
Proof.
  intros P Sx Len OK d_s g. apply backward_is_derivative; auto. now apply mean_loss_gradient_in_logits.
Qed.

(* The squared error: the derivative of sum_b dloss_b * 1/2 |s_b - onehot(y_b)|^2 is that of the code. *)
Theorem squared_error_gradient_in_logits B C y d_loss s :
  gradient_in_logits B C
    (fun s => sum B (fun b => item d_loss b * item (squared_error_forward (1 / 2) B C s y) b)) s
    (squared_error_backward B C s y d_loss).
Proof.
  intros curve s' Here M. unfold inner. apply is_derive_sum. intros b Hb.
  apply (is_derive_ext (fun t => item d_loss b * (1 / 2 * sum C (fun c =>
    (entry (curve t) b c - onehot (y b) c) * (entry (curve t) b c - onehot (y b) c))))).
  { intros t. unfold squared_error_forward. now rewrite item_tabulate. }
  rewrite (sum_ext C _ (fun c => item d_loss b * (1 / 2 *
    (2 * (entry (curve 0) b c - onehot (y b) c) * entry s' b c)))).
  2:{ intros c Hc. unfold squared_error_backward. rewrite entry_build by auto. rewrite Here. real. field. }
  rewrite !sum_scal. apply (is_derive_scal (fun t => 1 / 2 * sum C _)). apply (is_derive_scal (fun t => sum C _)).
  apply is_derive_sum. intros c Hc. assert (Mc := M b c Hb Hc).
  assert (Md : is_derive (fun t => entry (curve t) b c - onehot (y b) c) 0 (entry s' b c)).
  { replace (entry s' b c) with (minus (entry s' b c) 0) by (unfold minus, plus, opp; simpl; ring).
    apply (is_derive_minus (fun t => entry (curve t) b c) (fun _ => onehot (y b) c)); [exact Mc|].
    apply (is_derive_const (V := R_NormedModule)). }
  replace (2 * (entry (curve 0) b c - onehot (y b) c) * entry s' b c)
    with (plus (mult (entry s' b c) (entry (curve 0) b c - onehot (y b) c))
               (mult (entry (curve 0) b c - onehot (y b) c) (entry s' b c))) by (unfold plus, mult; simpl; ring).
  apply (is_derive_mult (fun t => entry (curve t) b c - onehot (y b) c)
           (fun t => entry (curve t) b c - onehot (y b) c));
    auto. intros; apply Rmult_comm.
Qed.
