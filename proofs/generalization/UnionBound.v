(* A hypothesis that was learnt from the very examples it is measured on: the union bound over a finite space.

   MLCERT's main and oracular bounds. Over a space of 2^B hypotheses, with m i.i.d. examples and any learner, also one
   that looks at the examples as often as it likes and uses other knowledge (an "oracle", trained elsewhere):
     P[A + eps < A'] <= 2^B exp(-2 eps^2 m),
   and twice that for the deviation on both sides. The reason is [uniform_bound]: but for such a draw not even one
   hypothesis of the whole space is overrated. *)

Require Import Reals Lra Lia List.
From LeanMnist.generalization Require Import Distribution Hoeffding FixedHypothesis.
Import ListNotations.
Open Scope R_scope.

Section FiniteSpace.
  Context {A H : Type} (D : distribution A) (right : H -> A -> bool) (space : list H).

  Lemma union_of_equal_bounds (event : H -> list A -> Prop) m c : (forall h, Prob (draws D m) (event h) <= c) ->
    Prob (draws D m) (fun sample => exists h, In h space /\ event h sample) <= INR (length space) * c.
  Proof.
    intros Hc. eapply Rle_trans; [apply Prob_union|]. rewrite <- sum_over_const. apply sum_over_le_on. auto.
  Qed.

  (* No hypothesis of the space is overrated, but for a draw of probability |H| exp(-2 eps^2 m). *)
  Theorem uniform_bound m eps : 0 <= eps ->
    Prob (draws D m) (fun sample => exists h, In h space /\ overrated D right eps h sample)
      <= INR (length space) * exp (- 2 * eps ^ 2 * INR m).
  Proof. intros Heps. apply union_of_equal_bounds. intros h. now apply fixed_hypothesis_bound. Qed.

  (* The same on both sides: 2 |H| exp(-2 eps^2 m). *)
  Theorem uniform_bound_two_sided m eps : 0 <= eps ->
    Prob (draws D m) (fun sample => exists h, In h space /\ misrated D right eps h sample)
      <= INR (length space) * (2 * exp (- 2 * eps ^ 2 * INR m)).
  Proof. intros Heps. apply union_of_equal_bounds. intros h. now apply fixed_hypothesis_bound_two_sided. Qed.

  (* Whatever is learnt, as long as it lies in the space. *)
  Theorem learner_bound (learn : list A -> H) m eps :
    0 <= eps -> (forall sample, length sample = m -> In (learn sample) space) ->
    Prob (draws D m) (fun sample => overrated D right eps (learn sample) sample)
      <= INR (length space) * exp (- 2 * eps ^ 2 * INR m).
  Proof.
    intros Heps Hin. eapply Rle_trans; [|now apply uniform_bound]. apply Prob_mono_on. intros sample I over.
    exists (learn sample). split; [apply Hin, (draws_length D m), I | exact over].
  Qed.
End FiniteSpace.

(* ---------- hypotheses of B bits ---------- *)

Fixpoint words (n : nat) : list (list bool) :=
  match n with O => [[]] | S k => map (cons true) (words k) ++ map (cons false) (words k) end.

Lemma words_count n : INR (length (words n)) = 2 ^ n.
Proof.
  induction n; [reflexivity|]. simpl. rewrite app_length, !map_length, plus_INR, IHn. ring.
Qed.

Lemma words_complete w : In w (words (length w)).
Proof. induction w as [|[] w IH]; simpl; [now left | |]; apply in_or_app; [left|right]; now apply in_map. Qed.

Section Bits.
  Context {A : Type} (D : distribution A) (right : list bool -> A -> bool) (B : nat).

  (* Parameters of B bits are one of 2^B: what has a small probability for each of them, has at most 2^B times that for
     those that were learnt, from the examples themselves ([examples w = w]) or elsewhere. *)
  Lemma learnt_of_bits {W} (world : distribution W) (examples : W -> list A) (learn : W -> list bool) m c
    (event : list bool -> list A -> Prop) :
    (forall h, Prob (draws D m) (event h) <= c) -> (forall w, In w (values world) -> length (learn w) = B) ->
    (forall event, Prob world (fun w => event (examples w)) = Prob (draws D m) event) ->
    Prob world (fun w => event (learn w) (examples w)) <= 2 ^ B * c.
  Proof.
    intros Hc HB Hiid. rewrite <- (words_count B).
    eapply Rle_trans; [|apply (union_of_equal_bounds D (words B) event m c Hc)].
    rewrite <- Hiid. apply Prob_mono_on. intros w I Hw. exists (learn w). split; [|exact Hw].
    rewrite <- (HB w I). apply words_complete.
  Qed.

  (* MLCERT's main bound: parameters of B bits, learnt in any way from the m examples they are measured on. *)
  Theorem main_bound (learn : list A -> list bool) m eps :
    0 <= eps -> (forall sample, length sample = m -> length (learn sample) = B) ->
    Prob (draws D m) (fun sample => overrated D right eps (learn sample) sample)
      <= 2 ^ B * exp (- 2 * eps ^ 2 * INR m).
  Proof.
    intros Heps HB. apply (learnt_of_bits (draws D m) (fun sample => sample) learn m _ (overrated D right eps)); auto.
    - intros h. now apply fixed_hypothesis_bound.
    - intros sample I. apply HB, (draws_length D m), I.
  Qed.

  (* The same on both sides: 2^B 2 exp(-2 eps^2 m). *)
  Theorem main_bound_two_sided (learn : list A -> list bool) m eps :
    0 <= eps -> (forall sample, length sample = m -> length (learn sample) = B) ->
    Prob (draws D m) (fun sample => misrated D right eps (learn sample) sample)
      <= 2 ^ B * (2 * exp (- 2 * eps ^ 2 * INR m)).
  Proof.
    intros Heps HB. apply (learnt_of_bits (draws D m) (fun sample => sample) learn m _ (misrated D right eps)); auto.
    - intros h. now apply fixed_hypothesis_bound_two_sided.
    - intros sample I. apply HB, (draws_length D m), I.
  Qed.

  (* MLCERT's oracular bound: the parameters come from elsewhere, drawn together with the examples or not:
     [examples w] are the m examples, [oracle w] the parameters; all that is asked is that the examples are i.i.d. *)
  Theorem oracular_bound {W} (world : distribution W) (examples : W -> list A) (oracle : W -> list bool) m eps :
    0 <= eps -> (forall w, length (oracle w) = B) ->
    (forall event, Prob world (fun w => event (examples w)) = Prob (draws D m) event) ->
    Prob world (fun w => overrated D right eps (oracle w) (examples w)) <= 2 ^ B * exp (- 2 * eps ^ 2 * INR m).
  Proof.
    intros Heps HB Hiid. apply (learnt_of_bits world examples oracle m _ (overrated D right eps)); auto.
    intros h. now apply fixed_hypothesis_bound.
  Qed.

  (* The same on both sides. *)
  Theorem oracular_bound_two_sided {W} (world : distribution W) (examples : W -> list A) (oracle : W -> list bool)
    m eps : 0 <= eps -> (forall w, length (oracle w) = B) ->
    (forall event, Prob world (fun w => event (examples w)) = Prob (draws D m) event) ->
    Prob world (fun w => misrated D right eps (oracle w) (examples w)) <= 2 ^ B * (2 * exp (- 2 * eps ^ 2 * INR m)).
  Proof.
    intros Heps HB Hiid. apply (learnt_of_bits world examples oracle m _ (misrated D right eps)); auto.
    intros h. now apply fixed_hypothesis_bound_two_sided.
  Qed.
End Bits.
