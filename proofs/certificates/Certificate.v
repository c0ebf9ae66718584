(* What a certificate in Coq concludes, from two computations that end in "true".

   Counted: the test set has m examples of the right number of pixels, and the network errs on k of them. Bounded: if
   the network errs with probability at least p on an example of some distribution, then as few as k errors in m
   independent draws have probability at most delta (Clopper and Pearson 1934; the test set bound of Langford 2005). *)
From Coq Require Import ZArith List Reals Bool Lia.
From LeanMnist.generalization Require Import Distribution ClopperPearson.
From LeanMnist.certificates Require Import QuantisedNetwork PackedExamples PackedCount BinomialTail.
Import ListNotations.

Definition count_is (n : network) (packed : list packed_example) (examples pixels errors : Z) : bool :=
  well_formed n && (Z.of_nat (length packed) =? examples)%Z
  && forallb (fun e => Z.of_nat (length (unpacked (snd e))) =? pixels)%Z packed
  && (count n packed =? errors)%Z.

(* If the computation says so: so many examples, each of so many pixels, and so many errors. *)
Theorem counted n packed examples pixels k : count_is n packed examples pixels k = true ->
  length (examples_of packed) = Z.to_nat examples
  /\ Forall (fun e => length (fst e) = Z.to_nat pixels) (examples_of packed)
  /\ errors (wrong n) (examples_of packed) = Z.to_nat k.
Proof.
  unfold count_is. rewrite !andb_true_iff, !Z.eqb_eq, forallb_forall. intros [[[W L] P] C].
  rewrite count_is_errors in C by assumption. unfold examples_of at 1 2. rewrite map_length, Forall_map, Forall_forall.
  repeat split; try lia. intros e I. specialize (P e I). apply Z.eqb_eq in P.
  unfold example_of, pixels_of. cbn [fst]. rewrite map_length. lia.
Qed.

(* For every distribution D of examples on which the network's risk is at least a/d: the probability of at most k errors
   in m independent draws from D is at most e/f. *)
Theorem bounded n m k a d e f : tail_at_most m k a d e f = true ->
  forall D : distribution example, (IZR a / IZR d <= risk D (wrong n) ->
  Prob (draws D (Z.to_nat m)) (fun sample => (errors (wrong n) sample <= Z.to_nat k)%nat) <= IZR e / IZR f)%R.
Proof.
  intros H D Hrisk. apply tail_at_most_correct in H. destruct H as [H H0].
  eapply Rle_trans; [|exact H]. apply few_errors_improbable. now split.
Qed.
