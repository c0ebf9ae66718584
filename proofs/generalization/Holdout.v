(* A hypothesis measured on fresh examples: the holdout bound.

   Whatever a hypothesis was made from (m training examples, other data, chance, none of it in a space of limited size),
   if the n examples it is measured on are drawn i.i.d. and independently of that, then
     P[A + eps < A'] <= exp(-2 eps^2 n):
   the bound for one fixed hypothesis, without a union. *)

Require Import Reals Lra Lia List.
From LeanMnist.generalization Require Import Distribution Hoeffding FixedHypothesis.
Open Scope R_scope.

Section Holdout.
  Context {A H W : Type} (D : distribution A) (right : H -> A -> bool).
  Variable past : distribution W.  (* all that the hypothesis is made from *)
  Variable learn : W -> H.

  (* MLCERT's holdout bound; with [past] the draw of m training examples, that is [draws D m]. *)
  Theorem holdout_bound n eps : 0 <= eps ->
    Prob (product past (draws D n)) (fun both => overrated D right eps (learn (fst both)) (snd both))
      <= exp (- 2 * eps ^ 2 * INR n).
  Proof. intros Heps. apply Prob_product_le. intros w. exact (fixed_hypothesis_bound D right (learn w) n eps Heps). Qed.

  (* On both sides: P[eps < |A' - A|] <= 2 exp(-2 eps^2 n). *)
  Theorem holdout_bound_two_sided n eps : 0 <= eps ->
    Prob (product past (draws D n)) (fun both => misrated D right eps (learn (fst both)) (snd both))
      <= 2 * exp (- 2 * eps ^ 2 * INR n).
  Proof.
    intros Heps. apply Prob_product_le. intros w. exact (fixed_hypothesis_bound_two_sided D right (learn w) n eps Heps).
  Qed.
End Holdout.
