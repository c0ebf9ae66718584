(* The radius that the code computes in float64 is at least the formula that a ball rule asks for.

   A radius is computed from nonnegative numbers by sums and products. Each rounding makes it smaller by a factor of at
   least 1 - u, and each product may lose eta more; `raised` and `raised_products` of enclosure/rounding.py make up for
   that. Model and sources as in FloatingPoint.v. A product with u = 2^-53 only changes the exponent and is taken as
   exact; where it underflows, these theorems say nothing. *)
Require Import Reals Lra Lia Psatz List Permutation.
Import ListNotations.
From LeanMnist Require Import generalization.Distribution rounding.FloatingPoint rounding.Balls rounding.DotProduct.
Open Scope R_scope.

Section Raised.
  Variables u eta tiny : R.
  Hypothesis U : 0 <= u <= 1 / 2.
  Hypothesis Eta : 0 <= eta.

  (* The computed y is short of the exact x by at most k roundings and t: (1 - u)^k x <= y + t. *)
  Definition short (k : nat) (t x y : R) : Prop := 0 <= x /\ 0 <= y /\ 0 <= t /\ (1 - u) ^ k * x <= y + t.

  Lemma short_exact x : 0 <= x -> short 0 0 x x.
  Proof. intros X. unfold short. simpl. lra. Qed.

  Lemma shrink k : 0 <= (1 - u) ^ k <= 1.
  Proof. split; [apply pow_le; lra|]. apply Rle_trans with (1 ^ k); [apply pow_incr; lra | rewrite pow1; lra]. Qed.

  Lemma short_more k j t x y : short k t x y -> (k <= j)%nat -> short j t x y.
  Proof.
    intros (X & Y & T & S) Le. repeat split; try assumption. replace j with (k + (j - k))%nat by lia.
    rewrite pow_add. assert (P := shrink k). assert (Q := shrink (j - k)).
    apply Rle_trans with (2 := S). rewrite <- (Rmult_1_r ((1 - u) ^ k)) at 2.
    apply Rmult_le_compat_r; [exact X|]. apply Rmult_le_compat_l; lra.
  Qed.

  Lemma rounded_down d x y : 0 <= x -> 0 <= d -> rounds u d x y -> (1 - u) * x - d <= y.
  Proof.
    intros X D R. apply rounds_of_exact in R; [|lra]. rewrite (Rabs_pos_eq x X) in R. apply Rabs_within in R. lra.
  Qed.

  Lemma short_sum k t t' x x' y y' z : short k t x y -> short k t' x' y' -> rounds u 0 (y + y') z ->
    short (S k) (t + t') (x + x') z.
  Proof.
    intros (X & Y & T & S) (X' & Y' & T' & S') R. assert (Z : 0 <= z) by (apply (proj2 R); lra).
    repeat split; try lra.
    apply rounded_down in R; [|lra|lra]. simpl. set (p := (1 - u) ^ k) in *. nra.
  Qed.

  (* The product with a number c that is exact. *)
  Lemma short_product k t x y c z : 0 <= c -> short k t x y -> rounds u eta (c * y) z ->
    short (S k) (c * t + eta) (c * x) z.
  Proof.
    intros C (X & Y & T & S) R. assert (Z : 0 <= z) by (apply (proj2 R); now apply Rmult_le_pos).
    repeat split; try nra. apply rounded_down in R; [|nra|exact Eta]. simpl.
    set (p := (1 - u) ^ k) in *. assert (A : c * (p * x) <= c * (y + t)) by (apply Rmult_le_compat_l; assumption).
    assert (0 <= u * (c * t)) by (apply Rmult_le_pos; [lra | nra]). nra.
  Qed.

  (* (1 - u)^n (1 + 2 n u) >= 1 *)
  Lemma raised_enough n : 2 * INR n * u <= 1 -> 1 <= (1 - u) ^ n * (1 + 2 * INR n * u).
  Proof.
    intros N. assert (B : 1 - INR n * u <= (1 - u) ^ n).
    { clear N. induction n as [|n IH]; [simpl; lra|]. rewrite S_INR. simpl. assert (P := pos_INR n). nra. }
    assert (P := pos_INR n). assert (0 <= INR n * u) by (apply Rmult_le_pos; lra).
    apply Rle_trans with ((1 - INR n * u) * (1 + 2 * INR n * u)); [nra|]. apply Rmult_le_compat_r; nra.
  Qed.

  (* rounding.raised: y times a factor of at least 1 + 2 (k + 2) u. The product does not underflow, or else what was
     summed is subnormal, where sums are exact, and rounding to nearest never makes a float smaller than itself. *)
  Theorem raised_is_above k x y c z : short k 0 x y -> 2 * INR (k + 2) * u <= 1 -> 1 + 2 * INR (k + 2) * u <= c ->
    rounds u 0 (c * y) z \/ x <= y <= z -> x <= z.
  Proof.
    intros (X & Y & _ & S) K C [R|L]; [|lra]. assert (Big := raised_enough (k + 2) K).
    assert (Pos := pos_INR (k + 2)). assert (0 <= INR (k + 2) * u) by (apply Rmult_le_pos; lra).
    apply rounded_down in R; [|nra|lra]. replace (k + 2)%nat with (1 + (1 + k))%nat in Big at 1 by lia.
    simpl pow in Big. assert (P := shrink k). set (p := (1 - u) ^ k) in *.
    assert (A : 1 <= (1 - u) * p * c).
    { apply Rle_trans with (1 := Big). apply Rle_trans with ((1 - u) * ((1 - u) * p) * c).
      - apply Rmult_le_compat_l; [|exact C]. apply Rmult_le_pos; [lra|]. apply Rmult_le_pos; lra.
      - assert (0 <= u * (1 - u) * (p * c)) by (repeat apply Rmult_le_pos; lra). lra. }
    assert (B : (1 - u) * c * (p * x) <= (1 - u) * c * (y + 0)).
    { apply Rmult_le_compat_l; [apply Rmult_le_pos; lra | exact S]. }
    assert (D : 1 * x <= (1 - u) * p * c * x) by (apply Rmult_le_compat_r; assumption). lra.
  Qed.

  (* rounding.raised_products: tiny is added, far more than all that products may have lost, with t' to spare. *)
  Theorem raised_products_is_above k t t' x y c z R' : short k t x y -> 0 <= t' ->
    2 * INR (k + 2) * u <= 1 -> 1 + 2 * INR (k + 2) * u <= c <= 2 -> 2 * (2 * t + t' + eta) <= tiny ->
    rounds u eta (c * y) z -> rounds u 0 (z + tiny) R' -> x + t' <= R'.
  Proof.
    intros (X & Y & T & S) T' K C Tiny R R2.
    assert (Big := raised_enough (k + 2) K).
    assert (Pos := pos_INR (k + 2)). assert (0 <= INR (k + 2) * u) by (apply Rmult_le_pos; lra).
    assert (Z : 0 <= z) by (apply (proj2 R), Rmult_le_pos; lra).
    apply rounded_down in R; [|nra|exact Eta]. apply rounded_down in R2; [|lra|lra].
    replace (k + 2)%nat with (1 + (1 + k))%nat in Big at 1 by lia.
    simpl pow in Big. assert (P := shrink k). set (p := (1 - u) ^ k) in *.
    assert (A : 1 <= (1 - u) * ((1 - u) * p) * c).
    { apply Rle_trans with (1 := Big). apply Rmult_le_compat_l; [|apply C].
      apply Rmult_le_pos; [lra|]. apply Rmult_le_pos; lra. }
    assert (Sq : 0 <= (1 - u) * (1 - u) <= 1) by nra. assert (F : 0 <= (1 - u) * (1 - u) * c <= 2) by nra.
    assert (B : (1 - u) * (1 - u) * c * (p * x) <= (1 - u) * (1 - u) * c * (y + t))
      by (apply Rmult_le_compat_l; [apply F | exact S]).
    assert (D : (1 - u) * ((1 - u) * (c * y) - eta) <= (1 - u) * z) by (apply Rmult_le_compat_l; lra).
    assert (G : (1 - u) * (1 - u) * c * t <= 2 * t) by (apply Rmult_le_compat_r; lra).
    assert (V : 1 / 2 * tiny <= (1 - u) * tiny) by (apply Rmult_le_compat_r; lra).
    assert (W : 1 * x <= (1 - u) * ((1 - u) * p) * c * x) by (apply Rmult_le_compat_r; assumption).
    assert (J : (1 - u) * eta <= 1 * eta) by (apply Rmult_le_compat_r; lra). lra.
  Qed.

  (* A rounded dot product of nonnegative numbers, n of them: short by n roundings and n eta. *)
  Lemma short_dot l m : evaluates_dot u eta l m -> Forall (fun p => 0 <= fst p /\ 0 <= snd p) l ->
    short (length l) (INR (length l) * eta) (dot l) m.
  Proof.
    intros Ev F. enough (G : l <> [] /\ short (length l) (INR (length l) * eta) (dot l) m) by apply G.
    assert (Some : forall T (k : list T), k <> [] -> (1 <= length k)%nat) by (intros T [|]; [easy | simpl; lia]).
    unfold dot. induction Ev as [a b m R | l k p q m _ IHl _ IHk R | l p a b m _ IH R | l k m _ IH Perm].
    - split; [easy|]. inversion F as [|? ? [A B] _]; subst. simpl in *.
      replace (1 * eta) with (a * 0 + eta) by ring. rewrite Rplus_0_r.
      apply (short_product 0 0 b b a m A (short_exact b B)). exact R.
    - apply Forall_app in F. destruct F as [Fl Fk].
      destruct (IHl Fl) as [Ln Sl]. destruct (IHk Fk) as [Kn Sk]. split; [destruct l; [congruence | discriminate]|].
      rewrite sum_over_app, app_length, plus_INR, Rmult_plus_distr_r. apply Some in Ln. apply Some in Kn.
      replace (length l + length k)%nat with (S (length l + length k - 1)) by lia.
      apply short_sum with (y := p) (y' := q); [| |exact R].
      + apply (short_more _ _ _ _ _ Sl). lia.
      + apply (short_more _ _ _ _ _ Sk). lia.
    - split; [easy|]. inversion F as [|? ? [A B] Fl]; subst. destruct (IH Fl) as [_ (X & P & T & Sh)].
      cbn [fst snd] in A, B. cbn [sum_over fold_right length fst snd]. fold (sum_over (fun p => fst p * snd p) l).
      rewrite S_INR. assert (AB : 0 <= a * b) by now apply Rmult_le_pos. set (s := (1 - u) ^ length l) in *.
      assert (Q := shrink (length l)). fold s in Q. assert (N : 0 <= m) by (apply (proj2 R); lra).
      apply rounded_down in R; [|lra|exact Eta]. repeat split; try lra. simpl pow. fold s.
      set (d := sum_over _ l) in *. set (t := INR (length l) * eta) in *.
      assert (V : s * (a * b) <= a * b) by (rewrite <- (Rmult_1_l (a * b)) at 2; apply Rmult_le_compat_r; lra).
      assert (W : (1 - u) * (s * (a * b + d)) <= (1 - u) * (p + a * b + t)) by (apply Rmult_le_compat_l; lra).
      assert ((1 - u) * t <= t) by (rewrite <- (Rmult_1_l t) at 2; apply Rmult_le_compat_r; lra).
      replace ((INR (length l) + 1) * eta) with (t + eta) by (unfold t; ring). lra.
    - assert (Fl : Forall (fun p => 0 <= fst p /\ 0 <= snd p) l).
      { apply (Permutation_Forall (Permutation_sym Perm)), F. }
      destruct (IH Fl) as [Ln Sh]. split.
      + intros ->. apply Permutation_sym, Permutation_nil in Perm. contradiction.
      + now rewrite <- (Permutation_length Perm), <- (sum_over_permuted _ l k Perm).
  Qed.
End Raised.
