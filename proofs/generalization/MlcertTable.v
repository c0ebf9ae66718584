(* MLCERT's table 1 with its numbers put in, and what it rounded the wrong way.

   B = 15,944 bits (2 bits a weight) or 127,104 (16), m = 240,000 training and n = 40,000 test examples, delta = 10^-9.
   Proved: the epsilon that this package prints, to twelve digits rounded up, is enough, and one unit less of the last
   digit is not; what accuracy the counts certify; that the paper's 0.152 and 0.429 are enough, and that its 0.016 is
   not: there the right-hand side of the holdout bound is more than 1.2754 10^-9. *)

Require Import Reals Lra Lia ZArith List.
From LeanMnist.generalization Require Import Distribution Hoeffding FixedHypothesis UnionBound Holdout Epsilon.
Open Scope R_scope.
Set Warnings "-abstract-large-number".

(* Decides 2^B exp(-2 eps^2 m) against delta = c/d, where eps = e/s. *)
Ltac decide_epsilon e s c d :=
  match goal with
  | |- _ * exp (- 2 * ?eps ^ 2 * _) <= ?delta =>
      replace eps with (IZR e / IZR s) by lra; replace delta with (IZR c / IZR d) by lra;
      apply (epsilon_suffices_sound)
  | |- ?delta < _ * exp (- 2 * ?eps ^ 2 * _) =>
      replace eps with (IZR e / IZR s) by lra; replace delta with (IZR c / IZR d) by lra;
      apply (epsilon_too_small_sound)
  end; vm_compute; reflexivity.

(* ---------- the right-hand sides ---------- *)

(* 2 bits a weight: epsilon rounded up in its twelfth digit is enough for delta = 10^-9, *)
Theorem epsilon_2_bit : 2 ^ 15944 * exp (- 2 * 0.151878939680 ^ 2 * INR 240000) <= 1e-9.
Proof. decide_epsilon 151878939680%Z (10 ^ 12)%Z 1%Z (10 ^ 9)%Z. Qed.

(* and one unit less of that digit is not. *)
Theorem epsilon_2_bit_is_least : 1e-9 < 2 ^ 15944 * exp (- 2 * 0.151878939679 ^ 2 * INR 240000).
Proof. decide_epsilon 151878939679%Z (10 ^ 12)%Z 1%Z (10 ^ 9)%Z. Qed.

(* 16 bits a weight. *)
Theorem epsilon_16_bit : 2 ^ 127104 * exp (- 2 * 0.428472340861 ^ 2 * INR 240000) <= 1e-9.
Proof. decide_epsilon 428472340861%Z (10 ^ 12)%Z 1%Z (10 ^ 9)%Z. Qed.

(* One unit less is not enough. *)
Theorem epsilon_16_bit_is_least : 1e-9 < 2 ^ 127104 * exp (- 2 * 0.428472340860 ^ 2 * INR 240000).
Proof. decide_epsilon 428472340860%Z (10 ^ 12)%Z 1%Z (10 ^ 9)%Z. Qed.

(* The holdout, B = 0. *)
Theorem epsilon_holdout : 2 ^ 0 * exp (- 2 * 0.016094745198 ^ 2 * INR 40000) <= 1e-9.
Proof. decide_epsilon 16094745198%Z (10 ^ 12)%Z 1%Z (10 ^ 9)%Z. Qed.

(* One unit less is not enough. *)
Theorem epsilon_holdout_is_least : 1e-9 < 2 ^ 0 * exp (- 2 * 0.016094745197 ^ 2 * INR 40000).
Proof. decide_epsilon 16094745197%Z (10 ^ 12)%Z 1%Z (10 ^ 9)%Z. Qed.

(* The paper's 0.152 is enough. *)
Theorem paper_epsilon_2_bit : 2 ^ 15944 * exp (- 2 * 0.152 ^ 2 * INR 240000) <= 1e-9.
Proof. decide_epsilon 152%Z 1000%Z 1%Z (10 ^ 9)%Z. Qed.

(* So is its 0.429. *)
Theorem paper_epsilon_16_bit : 2 ^ 127104 * exp (- 2 * 0.429 ^ 2 * INR 240000) <= 1e-9.
Proof. decide_epsilon 429%Z 1000%Z 1%Z (10 ^ 9)%Z. Qed.

(* Its 0.016 is not: the bound is between 1.2754 10^-9 and 1.2755 10^-9 there. *)
Theorem paper_epsilon_holdout_too_small : 1.2754e-9 < 2 ^ 0 * exp (- 2 * 0.016 ^ 2 * INR 40000).
Proof. decide_epsilon 16%Z 1000%Z 12754%Z (10 ^ 13)%Z. Qed.

(* But little is missing: it is enough for delta = 1.2755 10^-9. *)
Theorem paper_epsilon_holdout_delta : 2 ^ 0 * exp (- 2 * 0.016 ^ 2 * INR 40000) <= 1.2755e-9.
Proof. decide_epsilon 16%Z 1000%Z 12755%Z (10 ^ 13)%Z. Qed.

(* ---------- the statements about networks ---------- *)

Section Table.
  Context {A : Type} (D : distribution A) (right : list bool -> A -> bool).

  (* Where an accuracy a was measured and the accuracy is below a - eps, the hypothesis was overrated. *)
  Lemma certified h sample a eps least : empirical_accuracy right h sample = a -> least <= a - eps ->
    accuracy D right h < least -> overrated D right eps h sample.
  Proof. unfold overrated. intros ->. lra. Qed.

  (* 2 bits: 222,029 of 240,000 training examples right, so but for 10^-9 the accuracy is at least 77.32 %. *)
  Theorem accuracy_2_bit (learn : list A -> list bool) :
    (forall sample, length sample = 240000%nat -> length (learn sample) = 15944%nat) ->
    Prob (draws D 240000) (fun sample => empirical_accuracy right (learn sample) sample = 222029 / 240000 /\
      accuracy D right (learn sample) < 0.7732) <= 1e-9.
  Proof.
    intros HB. eapply Rle_trans; [|exact epsilon_2_bit].
    eapply Rle_trans; [|apply (main_bound D right 15944 learn); [lra | exact HB]].
    apply Prob_mono. intros sample [Hemp Hacc]. eapply certified; [exact Hemp | | exact Hacc]. lra.
  Qed.

  (* 16 bits: 230,035 of 240,000; at least 53.00 %. *)
  Theorem accuracy_16_bit (learn : list A -> list bool) :
    (forall sample, length sample = 240000%nat -> length (learn sample) = 127104%nat) ->
    Prob (draws D 240000) (fun sample => empirical_accuracy right (learn sample) sample = 230035 / 240000 /\
      accuracy D right (learn sample) < 0.53) <= 1e-9.
  Proof.
    intros HB. eapply Rle_trans; [|exact epsilon_16_bit].
    eapply Rle_trans; [|apply (main_bound D right 127104 learn); [lra | exact HB]].
    apply Prob_mono. intros sample [Hemp Hacc]. eapply certified; [exact Hemp | | exact Hacc]. lra.
  Qed.

  Lemma accuracy_holdout {W} (past : distribution W) (learn : W -> list bool) a least :
    least <= a - 0.016094745198 ->
    Prob (product past (draws D 40000)) (fun both => empirical_accuracy right (learn (fst both)) (snd both) = a /\
      accuracy D right (learn (fst both)) < least) <= 1e-9.
  Proof.
    intros Hleast. eapply Rle_trans; [|exact epsilon_holdout]. rewrite Rmult_1_l.
    eapply Rle_trans; [|apply (holdout_bound D right past learn); lra].
    apply Prob_mono. intros both [Hemp Hacc]. eapply certified; [exact Hemp | exact Hleast | exact Hacc].
  Qed.

  (* 37,023 of 40,000 fresh test examples right (2 bits): but for 10^-9 the accuracy is at least 90.94 %. *)
  Theorem accuracy_2_bit_holdout {W} (past : distribution W) (learn : W -> list bool) :
    Prob (product past (draws D 40000)) (fun both =>
      empirical_accuracy right (learn (fst both)) (snd both) = 37023 / 40000 /\
      accuracy D right (learn (fst both)) < 0.9094) <= 1e-9.
  Proof. apply accuracy_holdout. lra. Qed.

  (* 38,271 of 40,000 (16 bits): at least 94.06 %. *)
  Theorem accuracy_16_bit_holdout {W} (past : distribution W) (learn : W -> list bool) :
    Prob (product past (draws D 40000)) (fun both =>
      empirical_accuracy right (learn (fst both)) (snd both) = 38271 / 40000 /\
      accuracy D right (learn (fst both)) < 0.9406) <= 1e-9.
  Proof. apply accuracy_holdout. lra. Qed.
End Table.
