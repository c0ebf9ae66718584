(* Probabilistic programs: sample, learn, observe (MLCERT's semantics, and lean_mnist/generalization/programs.py).

   A program denotes the expected value of a function over its results: [expected p f]. [sample] draws from a
   distribution, [observe] keeps the executions in which something happens and drops the others without making up for
   them, so a program has a total probability of at most 1 ([probability]). The theorems of learning are bounds on
     examples <- sample (draws D m);  hypothesis <- learn examples;  observe (the hypothesis is overrated). *)

Require Import Reals Lra Lia List.
From LeanMnist.generalization Require Import Distribution FixedHypothesis UnionBound Holdout MlcertTable.
Open Scope R_scope.
Set Warnings "-abstract-large-number".

Inductive program : Type -> Type :=
  | unit {T : Type} (value : T) : program T
  | sample {T : Type} (D : distribution T) : program T
  | observe {T : Type} (condition : T -> Prop) (value : T) : program T
  | andThen {S T : Type} (first : program S) (following : S -> program T) : program T.

Notation "x <- p ; q" := (andThen p (fun x => q)) (at level 90, p at level 89, q at level 90, right associativity).

(* The denotation: sum over the executions of their probability times f of the result. *)
Fixpoint expected {T : Type} (p : program T) : (T -> R) -> R :=
  match p in program T return (T -> R) -> R with
  | @unit _ value => fun f => f value
  | @sample _ D => fun f => E D f
  | @observe _ condition value => fun f => indicator (condition value) * f value
  | @andThen _ _ first following => fun f => expected first (fun value => expected (following value) f)
  end.

(* The probability that an execution gets to the end. *)
Definition probability {T} (p : program T) : R := expected p (fun _ => 1).

(* [learn rule examples]: the hypothesis that a deterministic rule makes of the examples. *)
Definition learn {S H : Type} (rule : S -> H) (examples : S) : program H := unit (rule examples).

(* ---------- a program denotes a distribution of total probability at most 1 ---------- *)

(* A greater function has a greater expected value. *)
Theorem expected_monotone {T} (p : program T) f g : (forall t, f t <= g t) -> expected p f <= expected p g.
Proof.
  revert f g; induction p as [T value|T D|T condition value|S T first IHfirst following IHfollowing];
    intros f g H; cbn [expected].
  - apply H.
  - now apply E_le.
  - apply Rmult_le_compat_l; [apply indicator_range | apply H].
  - apply IHfirst. intros value. now apply IHfollowing.
Qed.

Lemma expected_ext {T} (p : program T) f g : (forall t, f t = g t) -> expected p f = expected p g.
Proof. intros H. apply Rle_antisym; apply expected_monotone; intros t; rewrite (H t); apply Rle_refl. Qed.

(* The denotation is linear: E[c f + g] = c E[f] + E[g]. *)
Theorem expected_linear {T} (p : program T) c f g :
  expected p (fun t => c * f t + g t) = c * expected p f + expected p g.
Proof.
  revert f g; induction p as [T value|T D|T condition value|S T first IHfirst following IHfollowing];
    intros f g; cbn [expected].
  - reflexivity.
  - now rewrite E_plus, E_scal.
  - ring.
  - rewrite <- IHfirst. apply expected_ext. intros value. apply IHfollowing.
Qed.

Lemma expected_zero {T} (p : program T) : expected p (fun _ => 0) = 0.
Proof.
  pose proof (expected_linear p 1 (fun _ => 0) (fun _ => 0)) as Twice. cbv beta in Twice.
  rewrite (expected_ext p (fun t => 1 * 0 + 0) (fun _ => 0)) in Twice by (intros; ring). lra.
Qed.

(* The total probability of a program lies between 0 and 1. *)
Theorem probability_range {T} (p : program T) : 0 <= probability p <= 1.
Proof.
  unfold probability. split; [rewrite <- (expected_zero p); apply expected_monotone; intros; lra|].
  induction p as [T value|T D|T condition value|S T first IHfirst following IHfollowing]; cbn [expected].
  - lra.
  - rewrite E_const. lra.
  - pose proof (indicator_range (condition value)). lra.
  - apply Rle_trans with (expected first (fun _ => 1)); [now apply expected_monotone | exact IHfirst].
Qed.

(* It does not matter how steps are grouped. *)
Theorem andThen_associative {S T U} (p : program S) (q : S -> program T) (r : T -> program U) f :
  expected (t <- (s <- p; q s); r t) f = expected (s <- p; t <- q s; r t) f.
Proof. reflexivity. Qed.

(* ---------- sample; learn; observe ---------- *)

Section Experiment.
  Context {A H : Type} (D : distribution A) (right : H -> A -> bool).

  (* Learn from m examples and be overrated on them. *)
  Definition main_program (rule : list A -> H) (m : nat) (eps : R) : program (H * list A) :=
    examples <- sample (draws D m);
    hypothesis <- learn rule examples;
    observe (fun both => overrated D right eps (fst both) (snd both)) (hypothesis, examples).

  (* Learn from m examples and be overrated on n fresh ones. *)
  Definition holdout_program (rule : list A -> H) (m n : nat) (eps : R) : program (H * list A) :=
    examples <- sample (draws D m);
    hypothesis <- learn rule examples;
    fresh <- sample (draws D n);
    observe (fun both => overrated D right eps (fst both) (snd both)) (hypothesis, fresh).

  (* A given hypothesis is overrated on m examples. *)
  Definition fixed_program (hypothesis : H) (m : nat) (eps : R) : program (H * list A) :=
    examples <- sample (draws D m);
    observe (fun both => overrated D right eps (fst both) (snd both)) (hypothesis, examples).

  Lemma probability_main rule m eps : probability (main_program rule m eps) =
    Prob (draws D m) (fun examples => overrated D right eps (rule examples) examples).
  Proof. apply E_ext. intros examples. apply Rmult_1_r. Qed.

  (* For a hypothesis that was fixed beforehand: at most exp(-2 eps^2 m). *)
  Theorem fixed_program_bound hypothesis m eps : 0 <= eps ->
    probability (fixed_program hypothesis m eps) <= exp (- 2 * eps ^ 2 * INR m).
  Proof.
    intros Heps. eapply Rle_trans; [right|exact (fixed_hypothesis_bound D right hypothesis m eps Heps)].
    apply E_ext. intros examples. apply Rmult_1_r.
  Qed.

  (* For any rule that chooses from a finite space: at most |space| exp(-2 eps^2 m). *)
  Theorem main_program_bound_finite (space : list H) rule m eps :
    0 <= eps -> (forall examples, length examples = m -> In (rule examples) space) ->
    probability (main_program rule m eps) <= INR (length space) * exp (- 2 * eps ^ 2 * INR m).
  Proof. intros Heps Hin. rewrite probability_main. now apply learner_bound. Qed.

  (* For any rule at all, measured on n fresh examples: at most exp(-2 eps^2 n). *)
  Theorem holdout_program_bound rule m n eps : 0 <= eps ->
    probability (holdout_program rule m n eps) <= exp (- 2 * eps ^ 2 * INR n).
  Proof.
    intros Heps.
    eapply Rle_trans; [right|exact (holdout_bound D right (draws D m) rule n eps Heps)].
    unfold Prob. rewrite E_product. apply E_ext. intros examples. apply E_ext. intros fresh. apply Rmult_1_r.
  Qed.
End Experiment.

Section Bits.
  Context {A : Type} (D : distribution A) (right : list bool -> A -> bool).

  (* MLCERT's main theorem: for a learner of parameters of B bits,
       sample; learn; observe   has a probability of at most   2^B exp(-2 eps^2 m). *)
  Theorem main_program_bound B rule m eps :
    0 <= eps -> (forall examples, length examples = m -> length (rule examples) = B) ->
    probability (main_program D right rule m eps) <= 2 ^ B * exp (- 2 * eps ^ 2 * INR m).
  Proof. intros Heps HB. rewrite probability_main. now apply main_bound. Qed.

  (* With the numbers of MLCERT's table: 2 bits a weight, 240,000 examples, epsilon as printed, outward. *)
  Theorem main_program_2_bit rule :
    (forall examples, length examples = 240000%nat -> length (rule examples) = 15944%nat) ->
    probability (main_program D right rule 240000 0.151878939680) <= 1e-9.
  Proof. intros HB. eapply Rle_trans; [|exact epsilon_2_bit]. apply main_program_bound; [lra | exact HB]. Qed.

  (* The holdout of 40,000 examples at delta = 10^-9, whatever the rule and the m examples it learns from. *)
  Theorem holdout_program_40000 rule m : probability (holdout_program D right rule m 40000 0.016094745198) <= 1e-9.
  Proof. eapply Rle_trans; [|exact epsilon_holdout]. rewrite Rmult_1_l. apply holdout_program_bound. lra. Qed.
End Bits.
