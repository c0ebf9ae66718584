(* The variance of a batch gradient: sigma^2/m for m independent draws; the running mean as SGD with steps 1/(t + 1).

   The variance of a random vector v is E ||v - E v||^2. Independent draws are draws with replacement; batches
   without replacement, as an epoch of shuffled examples draws them, are in FinitePopulation.v. *)
Require Import Reals Lra Lia Psatz List.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers generalization.Distribution
  convergence.Vectors convergence.StochasticGradient.
Open Scope R_scope.

(* The sum, and the mean, of a vector for each seed of a list. *)
Definition vsum {Seed} (v : Seed -> vec) (seeds : list Seed) : vec := fun i => sum_over (fun seed => v seed i) seeds.
Definition batch_mean {Seed} (v : Seed -> vec) (seeds : list Seed) : vec := (/ INR (length seeds) * vsum v seeds)%V.

Section Variance.
  Context {Seed : Type} (D : distribution Seed) (n : nat) (v : Seed -> vec).
  Local Notation "|| v ||^2" := (norm2 n v%V) (at level 35, v at level 60).

  (* The sum of m draws, less m times the mean, has mean 0 ... *)
  Lemma E_sum_of_draws m i : E (draws D m) (fun seeds => vsum v seeds i) = INR m * mean D v i.
  Proof.
    induction m as [|m IH]; [rewrite E_draws_0; unfold vsum; simpl; ring|].
    rewrite E_draws_S, S_INR. rewrite (E_ext D _ (fun seed => v seed i + INR m * mean D v i)).
    - rewrite E_plus, E_const. unfold mean. ring.
    - intros seed. change (E (draws D m) (fun seeds => v seed i + vsum v seeds i) = v seed i + INR m * mean D v i).
      now rewrite E_plus, E_const, IH.
  Qed.

  (* ... and m times the variance: what different draws lose or gain is uncorrelated. *)
  Lemma E_sum_of_draws_norm2 m :
    E (draws D m) (fun seeds => ||vsum v seeds - INR m * mean D v||^2) = INR m * variance D n v.
  Proof.
    induction m as [|m IH].
    - rewrite E_draws_0. unfold norm2. replace (vsum v [] - INR 0 * mean D v)%V with (0 * mean D v)%V.
      + rewrite inner_scal_l. simpl. ring.
      + apply FunctionalExtensionality.functional_extensionality. intros i. unfold vminus, vscal, vsum. simpl. ring.
    - rewrite E_draws_S, S_INR, Rmult_plus_distr_r, Rmult_1_l, Rplus_comm, <- IH. unfold variance.
      set (total := E (draws D m) _). rewrite <- (E_const D total), <- E_plus. apply E_ext. intros seed. unfold total.
      set (own := (v seed - mean D v)%V). set (rest := fun seeds => (vsum v seeds - INR m * mean D v)%V).
      rewrite (E_ext _ _ (fun seeds => ||own||^2 + 2 * inner n own (rest seeds) + ||rest seeds||^2)).
      + rewrite !E_plus, E_const, E_scal, E_inner.
        replace (inner n own (mean (draws D m) rest)) with 0; [unfold rest; ring|].
        symmetry. unfold inner. transitivity (sum n (fun _ => 0)); [|apply sum_zero]. apply sum_ext. intros i _.
        unfold mean at 1, rest, vminus, vscal. rewrite E_minus, E_sum_of_draws, E_const. ring.
      + intros seeds. replace (vsum v (seed :: seeds) - (1 + INR m) * mean D v)%V with (own - -1 * rest seeds)%V.
        * rewrite norm2_minus. ring.
        * apply FunctionalExtensionality.functional_extensionality. intros i.
          unfold own, rest, vminus, vscal, vsum. simpl. ring.
  Qed.

  (* A batch of m >= 1 independent examples has the mean gradient in the mean ... *)
  Theorem batch_mean_unbiased m i : (1 <= m)%nat -> mean (draws D m) (batch_mean v) i = mean D v i.
  Proof.
    intros M. assert (P : 0 < INR m) by (apply (lt_INR 0); lia). unfold mean at 1.
    rewrite (E_ext_on _ _ (fun seeds => / INR m * vsum v seeds i)).
    - rewrite E_scal, E_sum_of_draws. field. lra.
    - intros seeds I. unfold batch_mean, vscal. now rewrite (draws_length D m seeds I).
  Qed.

  (* ... and the variance of one example, divided by m:  E ||batch mean - E v||^2 = Var/m *)
  Theorem batch_variance m : (1 <= m)%nat ->
    E (draws D m) (fun seeds => ||batch_mean v seeds - mean D v||^2) = variance D n v / INR m.
  Proof.
    intros M. assert (P : 0 < INR m) by (apply (lt_INR 0); lia).
    rewrite (E_ext_on _ _ (fun seeds => (/ INR m) ^ 2 * ||vsum v seeds - INR m * mean D v||^2)).
    - rewrite E_scal, E_sum_of_draws_norm2. field. lra.
    - intros seeds I. unfold batch_mean. rewrite (draws_length D m seeds I).
      replace (/ INR m * vsum v seeds - mean D v)%V with (/ INR m * (vsum v seeds - INR m * mean D v))%V.
      + unfold norm2. rewrite inner_scal_l, inner_scal_r. ring.
      + apply FunctionalExtensionality.functional_extensionality. intros i. unfold vminus, vscal. field. lra.
  Qed.
End Variance.

(* So SGD with batches of m independent examples is SGD with sigma^2/m instead of sigma^2. *)
Theorem batch_gradient_noise {Seed} (D : distribution Seed) n gradient sampled sigma2 m : (1 <= m)%nat ->
  unbiased_bounded D n gradient sampled sigma2 ->
  unbiased_bounded (draws D m) n gradient (fun theta => batch_mean (sampled theta)) (sigma2 / INR m).
Proof.
  intros M Noise theta. destruct (Noise theta) as [Mean Var]. split.
  - intros i I. rewrite batch_mean_unbiased by assumption. now apply Mean.
  - assert (Same : forall u : vec, norm2 n (u - gradient theta)%V = norm2 n (u - mean D (sampled theta))%V).
    { intros u. apply sum_ext. intros i I. unfold vminus. now rewrite Mean. }
    rewrite (E_ext _ _ _ (fun seeds => Same _)), batch_variance by assumption.
    rewrite (E_ext _ _ _ (fun seed => Same _)) in Var. apply Rmult_le_compat_r; [|exact Var].
    left. apply Rinv_0_lt_compat, (lt_INR 0). lia.
Qed.

(* ---------- the running mean ---------- *)

Section RunningMean.
  Context {Seed : Type} (D : distribution Seed) (n : nat) (x : Seed -> vec).

  (* theta - x is the gradient of 1/2 ||theta - x||^2. *)
  Definition towards (theta : vec) (seed : Seed) : vec := (theta - x seed)%V.

  Lemma running_mean_from seeds : forall j theta i, (seeds <> [] \/ 0 < INR j) ->
    sgd towards (fun k => 1 / INR (S (k + j))) theta seeds i
    = (INR j * theta i + vsum x seeds i) / INR (length seeds + j).
  Proof.
    induction seeds as [|seed later IH]; intros j theta i Some.
    - destruct Some as [|J]; [easy|]. unfold vsum. simpl. field. lra.
    - assert (Next : INR (S j) = INR j + 1) by apply S_INR. assert (J := pos_INR j).
      change (sgd towards (fun k => 1 / INR (S (k + j))) theta (seed :: later))
        with (sgd towards (fun k => 1 / INR (S (S k + j))) (theta - 1 / INR (S (0 + j)) * towards theta seed)%V later).
      rewrite (sgd_steps_ext _ _ (fun k => 1 / INR (S (k + S j)))) by (intros k; do 3 f_equal; lia).
      rewrite IH by (right; lra). simpl (0 + j)%nat. simpl length.
      replace (S (length later) + j)%nat with (length later + S j)%nat by lia. f_equal.
      unfold vsum, towards, vminus, vscal. simpl sum_over. rewrite Next. field. lra.
  Qed.

  (* With the steps 1/(k + 1), k = 0, 1, ..., SGD on 1/2 ||theta - x||^2 is, after t >= 1 steps and wherever it began,
     at the mean of the t examples so far. *)
  Theorem running_mean theta seeds i : seeds <> [] ->
    sgd towards (fun k => 1 / (INR k + 1)) theta seeds i = batch_mean x seeds i.
  Proof.
    intros Some. rewrite (sgd_steps_ext _ _ (fun k => 1 / INR (S (k + 0)))).
    - rewrite running_mean_from by now left. rewrite Nat.add_0_r. unfold batch_mean, vscal. simpl INR at 1.
      unfold Rdiv. ring.
    - intros k. now rewrite Nat.add_0_r, S_INR.
  Qed.

  (* So its variance about the mean is that of one example divided by t. *)
  Theorem running_mean_variance theta t : (1 <= t)%nat ->
    expected D towards (fun y => norm2 n (y - mean D x)%V) (fun k => 1 / (INR k + 1)) theta t
    = variance D n x / INR t.
  Proof.
    intros T. rewrite <- batch_variance by assumption. apply E_ext_on. intros seeds I. apply draws_length in I.
    assert (Some : seeds <> []) by (intros ->; simpl in I; lia).
    apply sum_ext. intros i _. unfold vminus. now rewrite running_mean.
  Qed.
End RunningMean.
