(* The model of rounding, and what many roundings may lose together.

   Standard model of floating-point arithmetic (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002,
   sections 2.2 and 3.1) of round to nearest: a result differs from the exact one by at most u times the smaller of the
   two, and by at most eta more where it may underflow, which a sum of two floats does not. In float64 u = 2^-53 and
   eta = 2^-1074. It is assumed as lean_mnist/enclosure/rounding.py says it; overflow is not in the model: where a
   midpoint is not finite, the code's radius is infinite and claims nothing. *)
Require Import Reals Lra Lia Psatz.
Open Scope R_scope.

(* The number y stands for the exact x: |y - x| <= u min(|x|, |y|) + eta, and it is not negative where x is not. For
   sums of floats eta is 0. *)
Definition rounds (u eta x y : R) : Prop :=
  Rabs (y - x) <= u * Rmin (Rabs x) (Rabs y) + eta /\ (0 <= x -> 0 <= y).

(* gamma_n = n u/(1 - n u), of enclosure.rounding.gamma *)
Definition gamma (u : R) (n : nat) : R := INR n * u / (1 - INR n * u).

Section Rounding.
  Variables u eta : R.
  Hypothesis U : 0 <= u.

  Lemma rounds_of_exact x y : rounds u eta x y -> Rabs (y - x) <= u * Rabs x + eta.
  Proof. intros [H _]. apply Rle_trans with (1 := H). assert (M := Rmin_l (Rabs x) (Rabs y)). nra. Qed.

  Lemma rounds_of_result x y : rounds u eta x y -> Rabs (y - x) <= u * Rabs y + eta.
  Proof. intros [H _]. apply Rle_trans with (1 := H). assert (M := Rmin_r (Rabs x) (Rabs y)). nra. Qed.

  (* (1 + u)^n (1 - n u) <= 1, so that n roundings, however they combine, are within gamma_n. *)
  Lemma growth_times n : (1 + u) ^ n * (1 - INR n * u) <= 1.
  Proof.
    induction n as [|n IH]; [simpl; lra|]. rewrite S_INR. simpl pow.
    assert (P : 0 <= (1 + u) ^ n) by (apply pow_le; lra).
    assert (N := pos_INR n). apply Rle_trans with (2 := IH).
    replace ((1 + u) * (1 + u) ^ n * (1 - (INR n + 1) * u))
      with ((1 + u) ^ n * (1 - INR n * u) - (1 + u) ^ n * ((INR n + 1) * u ^ 2)) by ring.
    assert (0 <= (1 + u) ^ n * ((INR n + 1) * u ^ 2)).
    { apply Rmult_le_pos; [exact P|]. apply Rmult_le_pos; [lra | apply pow2_ge_0]. }
    lra.
  Qed.

  (* (1 + u)^n - 1 <= gamma_n *)
  Theorem growth_at_most_gamma n : INR n * u < 1 -> (1 + u) ^ n - 1 <= gamma u n.
  Proof.
    intros Small. assert (G := growth_times n). unfold gamma.
    apply Rmult_le_reg_r with (1 - INR n * u); [lra|].
    replace (INR n * u / (1 - INR n * u) * (1 - INR n * u)) with (INR n * u) by (field; lra). lra.
  Qed.
End Rounding.

Lemma Rabs_within a b : Rabs a <= b <-> - b <= a <= b.
Proof. unfold Rabs. destruct (Rcase_abs a); lra. Qed.
