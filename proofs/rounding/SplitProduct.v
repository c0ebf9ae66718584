(* The dot product of split numbers, enclosure/products.py's accurate_product: the midpoint nearly as if rounded once.

   With a = a1 + a2 and b = b1 + b2, exactly, sum a b = sum a1 b1 + (sum a1 b2 + sum a2 b). The first is computed
   without any rounding, in whatever order, as its terms are multiples of one number q and their sums at most 2^53 q;
   what rounds is small. That the splitting is exact is assumed here (Rump, Ogita and Oishi, Accurate floating-point
   summation I, SIAM J. Sci. Comput. 31, 2008, section 3). Source: Ozaki, Ogita, Oishi and Rump, Numerical
   Algorithms 59, 2012. *)
Require Import Reals ZArith Lra Lia Psatz List Permutation.
Import ListNotations.
From LeanMnist Require Import generalization.Distribution rounding.FloatingPoint rounding.Balls rounding.DotProduct.
Open Scope R_scope.

(* ---------- dot products without rounding ---------- *)

Section Exact.
  Variable fl : R -> R -> Prop.  (* fl x y: y is the float that x is rounded to *)

  (* m is a value of the dot product, in any order of summation, with fused multiply-adds or without. *)
  Inductive evaluates : list (R * R) -> R -> Prop :=
  | product a b m : fl (a * b) m -> evaluates [(a, b)] m
  | addition l k p q m : evaluates l p -> evaluates k q -> fl (p + q) m -> evaluates (l ++ k) m
  | fused l p a b m : evaluates l p -> fl (p + a * b) m -> evaluates ((a, b) :: l) m
  | reordered l k m : evaluates l m -> Permutation l k -> evaluates k m.

  (* Multiples of the unit by whole numbers up to M are floats (M = 2^53), and a float is rounded to itself. *)
  Variables (unit_a unit_b : R) (M K J : Z).
  Hypothesis Floats : forall z y, (Z.abs z <= M)%Z -> fl (IZR z * (unit_a * unit_b)) y -> y = IZR z * (unit_a * unit_b).
  Hypothesis Nonnegative : (0 <= K /\ 0 <= J)%Z.

  (* a is a multiple of unit_a by a whole number up to K, b one of unit_b by one up to J. *)
  Definition short_pair (p : R * R) : Prop :=
    exists za zb, fst p = IZR za * unit_a /\ snd p = IZR zb * unit_b /\ (Z.abs za <= K)%Z /\ (Z.abs zb <= J)%Z.

  (* n products of such numbers, n K J <= M, add up without any rounding: products.significant_bits. *)
  Theorem short_dot_product_is_exact l m : evaluates l m -> Forall short_pair l ->
    (Z.of_nat (length l) * (K * J) <= M)%Z -> m = dot l.
  Proof.
    intros Ev F N.
    enough (G : exists z, m = IZR z * (unit_a * unit_b) /\ m = dot l /\ (Z.abs z <= Z.of_nat (length l) * (K * J))%Z)
      by (destruct G as (z & _ & E & _); exact E).
    assert (Pair : forall a b, short_pair (a, b) ->
      exists z, a * b = IZR z * (unit_a * unit_b) /\ (Z.abs z <= K * J)%Z).
    { intros a b (za & zb & A & B & Ka & Kb). cbn [fst snd] in A, B. exists (za * zb)%Z. split.
      - rewrite A, B, mult_IZR. ring.
      - rewrite Z.abs_mul. apply Z.mul_le_mono_nonneg; lia. }
    unfold dot. induction Ev as [a b m R | l k p q m _ IHl _ IHk R | l p a b m _ IH R | l k m _ IH Perm].
    - inversion F as [|? ? P _]; subst. destruct (Pair a b P) as (z & E & Z). cbn [length] in *. rewrite E in R.
      exists z. apply Floats in R; [|lia]. repeat split; [exact R | simpl; rewrite E; lra | lia].
    - apply Forall_app in F. destruct F as [Fl Fk]. rewrite app_length, Nat2Z.inj_add in *.
      assert (KJ : (0 <= K * J)%Z) by (apply Z.mul_nonneg_nonneg; lia).
      destruct (IHl Fl ltac:(nia)) as (x & Ex & Dx & Bx). destruct (IHk Fk ltac:(nia)) as (y & Ey & Dy & By).
      exists (x + y)%Z. rewrite Ex, Ey in R. rewrite <- Rmult_plus_distr_r, <- plus_IZR in R.
      apply Floats in R; [|lia]. rewrite sum_over_app, <- Dx, <- Dy, Ex, Ey.
      repeat split; [exact R | rewrite R, plus_IZR; ring | lia].
    - inversion F as [|? ? P Fl]; subst. cbn [length] in *. rewrite Nat2Z.inj_succ in *.
      assert (KJ : (0 <= K * J)%Z) by (apply Z.mul_nonneg_nonneg; lia).
      destruct (IH Fl ltac:(nia)) as (x & Ex & Dx & Bx). destruct (Pair a b P) as (z & E & Bz).
      exists (x + z)%Z. rewrite Ex, E in R. rewrite <- Rmult_plus_distr_r, <- plus_IZR in R.
      apply Floats in R; [|lia]. rewrite sum_over_cons, <- Dx, Ex. cbn [fst snd]. rewrite E.
      repeat split; [exact R | rewrite R, plus_IZR; ring | lia].
    - rewrite <- (Permutation_length Perm) in *.
      destruct (IH (Permutation_Forall (Permutation_sym Perm) F) N) as (z & E & D & B). exists z.
      rewrite <- (sum_over_permuted _ l k Perm). repeat split; assumption.
  Qed.
End Exact.

(* ---------- the ball of a split dot product ---------- *)

(* One index of the sum: the parts of both midpoints, both radii, both exact numbers. *)
Record term := { a1 : R; a2 : R; b1 : R; b2 : R; rad_a : R; rad_b : R; exact_a : R; exact_b : R }.
Definition a_of (t : term) : R := a1 t + a2 t.
Definition b_of (t : term) : R := b1 t + b2 t.
Definition enclosed (t : term) : Prop := Rabs (exact_a t - a_of t) <= rad_a t /\ Rabs (exact_b t - b_of t) <= rad_b t.

Section SplitProduct.
  Variables u eta : R.
  Hypothesis U : 0 <= u.
  Hypothesis Eta : 0 <= eta.
  Local Notation "| z |" := (Rabs z) (at level 35, z at level 60).

  (* accurate_product: high = a1 @ b1 exactly, p = a1 @ b2, q = a2 @ b, small = p + q, m = high + small; and
       growth (2 sum|a| max|b2| + max|a2| sum|b|) + 2 n eta (1 + u)^(n+1) + u |m| + sum r (|b| + s) + sum |a| s <= R,
     with growth at least (1 + u)^(n+1) - 1, such as gamma_(n+1), and |a1| <= 2 |a|. *)
  Theorem split_dot_product_contains (terms : list term) p q small m growth max_a2 max_b2 R' :
    let n := length terms in
    Forall enclosed terms ->
    Forall (fun t => |a1 t| <= 2 * |a_of t| /\ |a2 t| <= max_a2 /\ |b2 t| <= max_b2) terms ->
    evaluates_dot u eta (map (fun t => (a1 t, b2 t)) terms) p ->
    evaluates_dot u eta (map (fun t => (a2 t, b_of t)) terms) q ->
    rounds u 0 (p + q) small ->
    rounds u 0 (sum_over (fun t => a1 t * b1 t) terms + small) m ->
    (1 + u) ^ (n + 1) - 1 <= growth ->
    growth * (2 * sum_over (fun t => |a_of t|) terms * max_b2 + max_a2 * sum_over (fun t => |b_of t|) terms)
      + 2 * (INR n * eta) * (1 + u) ^ (n + 1) + u * |m|
      + sum_over (fun t => rad_a t * (|b_of t| + rad_b t)) terms + sum_over (fun t => |a_of t| * rad_b t) terms <= R' ->
    contains {| mid := m; rad := R' |} (sum_over (fun t => exact_a t * exact_b t) terms).
  Proof.
    intros n In Sizes P Q Sm M Growth Le. unfold contains. simpl. apply Rle_trans with (2 := Le). clear Le R'.
    set (A := sum_over (fun t => |a_of t|) terms). set (B := sum_over (fun t => |b_of t|) terms).
    set (first := map (fun t => (a1 t, b2 t)) terms) in *. set (second := map (fun t => (a2 t, b_of t)) terms) in *.
    assert (Ab : dot_of_magnitudes first <= 2 * A * max_b2).
    { unfold first, dot_of_magnitudes, A. rewrite sum_over_map, Rmult_assoc, (Rmult_comm _ max_b2), <- Rmult_assoc,
        <- sum_over_scal. apply sum_over_le_on. intros t T. simpl.
      destruct (proj1 (Forall_forall _ _) Sizes t T) as (S1 & _ & S2).
      apply Rle_trans with (2 * |a_of t| * max_b2); [|lra].
      apply Rmult_le_compat; try apply Rabs_pos; assumption. }
    assert (Bb : dot_of_magnitudes second <= max_a2 * B).
    { unfold second, dot_of_magnitudes, B. rewrite sum_over_map, <- sum_over_scal. apply sum_over_le_on. intros t T.
      simpl. destruct (proj1 (Forall_forall _ _) Sizes t T) as (_ & S1 & _).
      apply Rmult_le_compat_r; [apply Rabs_pos | exact S1]. }
    assert (Pe := rounded_dot_error u eta U Eta first p P). assert (Qe := rounded_dot_error u eta U Eta second q Q).
    assert (Nf : length first = n) by apply map_length. assert (Ns : length second = n) by apply map_length.
    rewrite Nf in Pe. rewrite Ns in Qe. set (G := (1 + u) ^ n) in *.
    assert (Gn : (1 + u) ^ (n + 1) = (1 + u) * G) by (rewrite pow_add; simpl; unfold G; ring). rewrite Gn in *.
    assert (Small : |small - (dot first + dot second)|
      <= ((1 + u) * G - 1) * (dot_of_magnitudes first + dot_of_magnitudes second)
         + ((1 + u) * (2 * (INR n * eta) * G) + 0)).
    { apply one_rounding_more with (p := p + q); [exact U | | | exact Sm].
      - apply Rle_trans with (1 := Rabs_triang _ _). apply Rplus_le_compat; apply dot_at_most_magnitudes.
      - replace (p + q - (dot first + dot second)) with ((p - dot first) + (q - dot second)) by ring.
        apply Rle_trans with (1 := Rabs_triang _ _). lra. }
    assert (Last := rounds_of_result u 0 U _ _ M). set (high := sum_over (fun t => a1 t * b1 t) terms) in *.
    assert (Whole : high + (dot first + dot second) = sum_over (fun t => a_of t * b_of t) terms).
    { unfold high, first, second, dot. rewrite !sum_over_map, <- !sum_over_plus. apply sum_over_ext_on. intros t _.
      unfold a_of, b_of. simpl. ring. }
    assert (Inner : |sum_over (fun t => exact_a t * exact_b t) terms - sum_over (fun t => a_of t * b_of t) terms|
      <= sum_over (fun t => rad_a t * (|b_of t| + rad_b t)) terms + sum_over (fun t => |a_of t| * rad_b t) terms).
    { rewrite <- sum_over_plus. clear - In. induction In as [|t l [X Y] _ IH]; simpl.
      - rewrite Rminus_0_r, Rabs_R0. lra.
      - regroup. apply Rle_trans with (1 := Rabs_triang _ _). apply Rplus_le_compat; [|exact IH].
        assert (W := product_within {| mid := a_of t; rad := rad_a t |} {| mid := b_of t; rad := rad_b t |}
          (exact_a t) (exact_b t) X Y).
        simpl in W. lra. }
    set (exact := sum_over (fun t => exact_a t * exact_b t) terms) in *.
    replace (exact - m) with ((exact - sum_over (fun t => a_of t * b_of t) terms)
      + (- (small - (dot first + dot second)) + - (m - (high + small)))) by (rewrite <- Whole; ring).
    apply Rle_trans with (1 := Rabs_triang _ _).
    assert (T := Rabs_triang (- (small - (dot first + dot second))) (- (m - (high + small)))).
    rewrite !Rabs_Ropp in T.
    assert (S0 := Rle_trans _ _ _ (Rabs_pos _) (dot_at_most_magnitudes first)).
    assert (S1 := Rle_trans _ _ _ (Rabs_pos _) (dot_at_most_magnitudes second)).
    assert (G1 : 1 <= (1 + u) * G) by (rewrite <- Gn; apply pow_R1_Rle; lra).
    assert (Grow : ((1 + u) * G - 1) * (dot_of_magnitudes first + dot_of_magnitudes second)
      <= growth * (2 * A * max_b2 + max_a2 * B)) by (apply Rmult_le_compat; lra).
    lra.
  Qed.
End SplitProduct.
