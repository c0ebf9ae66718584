(* Numbers as an abstract structure, and the sums and arrays that a network is written with.

   A network is defined once over `Numbers` and used twice: its gradient is proved over the real numbers
   (RealNumbers.v), and the same definition is executed over the rational numbers (RationalNumbers.v, Oracle.v).
   A matrix is the list of its rows, so that what is computed is computed once when it is executed. *)
Require Import List Arith Lia.
Import ListNotations.

Class Numbers (T : Type) := {
  zero : T;
  one : T;
  add : T -> T -> T;
  sub : T -> T -> T;
  mul : T -> T -> T;
  nonpositive : T -> bool (* is it <= 0? *)
}.

Notation vector T := (list T).
Notation matrix T := (list (list T)).

Section Arrays.
  Context {T : Type} `{Numbers T}.

  (* sum n f = f 0 + ... + f (n - 1) *)
  Fixpoint sum (n : nat) (f : nat -> T) : T :=
    match n with O => zero | S m => add (sum m f) (f m) end.

  Definition item (v : vector T) (i : nat) : T := nth i v zero.
  Definition entry (m : matrix T) (i j : nat) : T := item (nth i m []) j.

  (* the vector of f 0, ..., f (n - 1); the matrix of f i j with i < rows and j < columns *)
  Definition tabulate (n : nat) (f : nat -> T) : vector T := map f (seq 0 n).
  Definition build (rows columns : nat) (f : nat -> nat -> T) : matrix T :=
    map (fun i => tabulate columns (f i)) (seq 0 rows).

  Definition onehot (y c : nat) : T := if Nat.eqb c y then one else zero.

  Lemma sum_ext n f g : (forall i, i < n -> f i = g i) -> sum n f = sum n g.
  Proof. induction n as [|n IH]; simpl; intros E; [reflexivity|]. rewrite IH, E; auto. Qed.

  Lemma nth_map_seq {A} (f : nat -> A) (d : A) n i : i < n -> nth i (map f (seq 0 n)) d = f i.
  Proof.
    intros L. rewrite (nth_indep _ d (f 0)) by (rewrite map_length, seq_length; lia).
    rewrite map_nth, seq_nth; auto.
  Qed.

  Lemma item_tabulate n f i : i < n -> item (tabulate n f) i = f i.
  Proof. intros L. unfold item, tabulate. now apply nth_map_seq. Qed.

  Lemma entry_build r c f i j : i < r -> j < c -> entry (build r c f) i j = f i j.
  Proof. intros I J. unfold entry, build. rewrite nth_map_seq by auto. now apply item_tabulate. Qed.

  Lemma map_seq_ext {A} (f g : nat -> A) n : (forall i, i < n -> f i = g i) -> map f (seq 0 n) = map g (seq 0 n).
  Proof. intros E. apply map_ext_in. intros i I. apply in_seq in I. apply E. lia. Qed.

  Lemma tabulate_ext n f g : (forall i, i < n -> f i = g i) -> tabulate n f = tabulate n g.
  Proof. apply map_seq_ext. Qed.

  Lemma build_ext r c f g : (forall i j, i < r -> j < c -> f i j = g i j) -> build r c f = build r c g.
  Proof. intros E. apply map_seq_ext. intros i I. apply tabulate_ext. auto. Qed.

  (* A matrix has the shape (r, c) if it has r rows of c entries each. *)
  Definition shaped (r c : nat) (m : matrix T) : Prop := length m = r /\ Forall (fun row => length row = c) m.

  Lemma shaped_build r c f : shaped r c (build r c f).
  Proof.
    split; [unfold build; now rewrite map_length, seq_length|].
    apply Forall_forall. intros row I. apply in_map_iff in I as [i [<- _]].
    unfold tabulate. now rewrite map_length, seq_length.
  Qed.

  Lemma tabulate_item n v : length v = n -> tabulate n (item v) = v.
  Proof.
    intros L. apply (nth_ext _ _ zero zero); unfold tabulate; rewrite map_length, seq_length; auto.
    intros i I. now rewrite nth_map_seq.
  Qed.

  (* A matrix of that shape is the matrix of its entries. *)
  Lemma build_entry r c m : shaped r c m -> build r c (entry m) = m.
  Proof.
    intros [L F]. apply (nth_ext _ _ [] []); unfold build; rewrite map_length, seq_length; auto.
    intros i I. rewrite nth_map_seq by auto. unfold entry. apply tabulate_item.
    apply (proj1 (Forall_forall _ m) F). apply nth_In. lia.
  Qed.
End Arrays.
