(* Examples as a file writes them: a label and 63-bit words, each of seven tokens of nine bits, the lowest bits first.

   A token from 1 to 255 is a pixel, one from 256 to 511 is a run of 1 to 256 pixels that are 0, and the token 0, which
   fills up the last word of an image, is nothing. Whatever the words are, they have a meaning ([examples_of]), in which
   every pixel lies from 0 to 255. *)
From Coq Require Import ZArith List Lia Uint63.
From LeanMnist.certificates Require Import QuantisedNetwork.
Import ListNotations.
Open Scope Z_scope.

Definition packed_example : Type := int * list int.

Fixpoint tokens (count : nat) (word : int) : list int :=
  match count with O => [] | S n => (word mod 512)%uint63 :: tokens n (word / 512)%uint63 end.
Fixpoint zeros (count : nat) (rest : list int) : list int :=
  match count with O => rest | S n => 0%uint63 :: zeros n rest end.
Definition pixels_of_token (token : int) (rest : list int) : list int :=
  if (token =? 0)%uint63 then rest
  else if (token <? 256)%uint63 then token :: rest
  else zeros (Z.to_nat (to_Z token - 255)) rest.
Definition unpacked (words : list int) : list int :=
  fold_right pixels_of_token [] (flat_map (tokens 7) words).

Definition pixels_of (words : list int) : list Z := map to_Z (unpacked words).
Definition example_of (packed : packed_example) : example := (pixels_of (snd packed), to_Z (fst packed)).
Definition examples_of (packed : list packed_example) : list example := map example_of packed.

Definition is_pixel (i : int) : Prop := 0 <= to_Z i <= 255.

Lemma zeros_are_pixels n rest : Forall is_pixel rest -> Forall is_pixel (zeros n rest).
Proof. intros H. induction n; simpl; [assumption|]. constructor; [now unfold is_pixel | assumption]. Qed.

Theorem unpacked_are_pixels words : Forall is_pixel (unpacked words).
Proof.
  unfold unpacked. induction (flat_map _ _) as [|token ts IH]; [constructor|]. cbn [fold_right].
  unfold pixels_of_token at 1. destruct (token =? 0)%uint63; [assumption|].
  destruct (ltbP token 256) as [H|H]; [|now apply zeros_are_pixels].
  constructor; [|assumption]. unfold is_pixel. pose proof (to_Z_bounded token). change (to_Z 256) with 256 in H. lia.
Qed.
