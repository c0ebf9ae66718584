(* One hypothesis, chosen before the examples were drawn: MLCERT's "Chernoff" bound.

   A classifier is given by [right h a]: whether hypothesis h is right about the example a. Its accuracy is the expected
   share of right answers, its empirical accuracy the measured one; it is [overrated] by a sample if it is measured
   better than it is by more than eps. In terms of errors: its risk is 1 - accuracy, and it is overrated if and only if
   errors/n + eps < risk. Every bound on learnt hypotheses is derived from the theorem at the end. *)

Require Import Reals Lra Lia List.
From LeanMnist.generalization Require Import Distribution Hoeffding ClopperPearson.
Open Scope R_scope.

Section Classifier.
  Context {A H : Type} (D : distribution A) (right : H -> A -> bool).

  Definition score (h : H) (a : A) : R := if right h a then 1 else 0.
  Definition wrong (h : H) (a : A) : bool := negb (right h a).
  Definition accuracy (h : H) : R := E D (score h).
  Definition empirical_accuracy (h : H) (sample : list A) : R := mean (score h) sample.

  (* Measured better than it is by more than eps. *)
  Definition overrated (eps : R) (h : H) (sample : list A) : Prop := accuracy h + eps < empirical_accuracy h sample.

  (* Measured better or worse than it is by more than eps. *)
  Definition misrated (eps : R) (h : H) (sample : list A) : Prop :=
    eps < Rabs (empirical_accuracy h sample - accuracy h).

  Lemma score_range h a : 0 <= score h a <= 1.
  Proof. unfold score; destruct (right h a); lra. Qed.

  Lemma score_loss h a : score h a = 1 - zero_one_loss (wrong h) a.
  Proof. unfold score, zero_one_loss, wrong. destruct (right h a); simpl; ring. Qed.

  Lemma accuracy_risk h : accuracy h = 1 - risk D (wrong h).
  Proof. unfold accuracy. rewrite (E_ext D _ _ (score_loss h)). apply E_complement. Qed.

  Lemma empirical_accuracy_errors h sample : sample <> nil ->
    empirical_accuracy h sample = 1 - INR (errors (wrong h) sample) / INR (length sample).
  Proof.
    intros Hs. unfold empirical_accuracy. rewrite errors_sum. fold (mean (zero_one_loss (wrong h)) sample).
    rewrite <- mean_complement by exact Hs. unfold mean. f_equal. apply sum_over_ext_on. intros a _. apply score_loss.
  Qed.

  (* Overrated: the risk is greater than the share of errors plus eps. *)
  Theorem overrated_errors eps h sample : sample <> nil ->
    (overrated eps h sample <-> INR (errors (wrong h) sample) / INR (length sample) + eps < risk D (wrong h)).
  Proof. intros Hs. unfold overrated. rewrite accuracy_risk, empirical_accuracy_errors by exact Hs. lra. Qed.

  (* P[A + eps < A'] <= exp(-2 eps^2 n), A' the empirical accuracy on n examples. *)
  Theorem fixed_hypothesis_bound h n eps : 0 <= eps ->
    Prob (draws D n) (overrated eps h) <= exp (- 2 * eps ^ 2 * INR n).
  Proof.
    intros Heps. eapply Rle_trans; [|apply (hoeffding_above D (score h) (score_range h) n eps Heps)].
    apply Prob_mono. intros sample. apply Rlt_le.
  Qed.

  (* P[eps < |A' - A|] <= 2 exp(-2 eps^2 n) *)
  Theorem fixed_hypothesis_bound_two_sided h n eps : 0 <= eps ->
    Prob (draws D n) (misrated eps h) <= 2 * exp (- 2 * eps ^ 2 * INR n).
  Proof.
    intros Heps. eapply Rle_trans; [|apply (hoeffding_two_sided D (score h) (score_range h) n eps Heps)].
    apply Prob_mono. intros sample. apply Rlt_le.
  Qed.
End Classifier.
