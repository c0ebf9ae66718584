(* Dot products and sums of any length on balls, whatever the order of summation: Ball.__matmul__ and Ball.sum.

   The midpoint is a rounded dot product of the midpoints: products and additions in any order, and fused multiply-adds,
   as enclosure/rounding.py assumes of PyTorch. Each entry of a product of matrices is such a dot product.
   Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, section 3.1; Rump, Fast and parallel
   interval arithmetic, BIT 39, 1999. Strassen's algorithm and the split of enclosure/products.py are not covered. *)
Require Import Reals Lra Lia Psatz List Permutation.
Import ListNotations.
From LeanMnist Require Import generalization.Distribution rounding.FloatingPoint rounding.Balls.
Open Scope R_scope.

Definition dot (pairs : list (R * R)) : R := sum_over (fun p => fst p * snd p) pairs.
Definition dot_of_magnitudes (pairs : list (R * R)) : R := sum_over (fun p => Rabs (fst p) * Rabs (snd p)) pairs.
Definition total (terms : list R) : R := sum_over (fun x => x) terms.
Definition total_of_magnitudes (terms : list R) : R := sum_over Rabs terms.

Lemma sum_over_permuted {T} (f : T -> R) l k : Permutation l k -> sum_over f l = sum_over f k.
Proof. induction 1; simpl; lra. Qed.

(* |(p + s) - (q + r)| as |(p - q) + (s - r)| *)
Ltac regroup := match goal with
  | |- Rabs (?p + ?s - (?q + ?r)) <= _ => replace (p + s - (q + r)) with ((p - q) + (s - r)) by ring end.

Section Evaluation.
  Variables u eta : R.
  Hypothesis U : 0 <= u.
  Hypothesis Eta : 0 <= eta.

  (* [evaluates_dot pairs m]: m is a rounded value of the dot product of the pairs. *)
  Inductive evaluates_dot : list (R * R) -> R -> Prop :=
  | one_product a b m : rounds u eta (a * b) m -> evaluates_dot [(a, b)] m
  | sum_of_two l k p q m : evaluates_dot l p -> evaluates_dot k q -> rounds u 0 (p + q) m -> evaluates_dot (l ++ k) m
  | multiply_add l p a b m : evaluates_dot l p -> rounds u eta (p + a * b) m -> evaluates_dot ((a, b) :: l) m
  | in_another_order l k m : evaluates_dot l m -> Permutation l k -> evaluates_dot k m.

  (* [evaluates_sum terms m]: m is a rounded value of the sum of the terms. *)
  Inductive evaluates_sum : list R -> R -> Prop :=
  | one_term a : evaluates_sum [a] a
  | sum_of_sums l k p q m : evaluates_sum l p -> evaluates_sum k q -> rounds u 0 (p + q) m -> evaluates_sum (l ++ k) m
  | of_another_order l k m : evaluates_sum l m -> Permutation l k -> evaluates_sum k m.

  Lemma dot_at_most_magnitudes l : Rabs (dot l) <= dot_of_magnitudes l.
  Proof.
    unfold dot, dot_of_magnitudes. induction l as [|[a b] l IH]; simpl; [rewrite Rabs_R0; lra|].
    apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult. lra.
  Qed.

  Lemma total_at_most_magnitudes l : Rabs (total l) <= total_of_magnitudes l.
  Proof.
    unfold total, total_of_magnitudes. induction l as [|a l IH]; simpl; [rewrite Rabs_R0; lra|].
    apply Rle_trans with (1 := Rabs_triang _ _). lra.
  Qed.

  Lemma growth_mono p n : (p <= n)%nat -> 1 <= (1 + u) ^ p <= (1 + u) ^ n.
  Proof. intros L. split; [apply pow_R1_Rle; lra | apply Rle_pow; [lra | exact L]]. Qed.

  (* One rounding more, of x where p stands for it, within (G - 1) S + e, S at least |x|. *)
  Lemma one_rounding_more x p m G S e d : Rabs x <= S -> Rabs (p - x) <= (G - 1) * S + e -> rounds u d p m ->
    Rabs (m - x) <= ((1 + u) * G - 1) * S + ((1 + u) * e + d).
  Proof.
    intros X P M. apply rounds_of_exact in M; [|exact U].
    assert (T : Rabs p <= S + ((G - 1) * S + e)).
    { replace p with (x + (p - x)) by ring. apply Rle_trans with (1 := Rabs_triang _ _). lra. }
    replace (m - x) with ((m - p) + (p - x)) by ring. apply Rle_trans with (1 := Rabs_triang _ _).
    apply Rmult_le_compat_l with (r := u) in T; [|exact U]. lra.
  Qed.

  (* |m - sum a b| <= ((1 + u)^n - 1) sum |a||b| + n eta (1 + u)^n, n the number of products *)
  Theorem rounded_dot_error l m : evaluates_dot l m ->
    Rabs (m - dot l) <= ((1 + u) ^ length l - 1) * dot_of_magnitudes l + INR (length l) * eta * (1 + u) ^ length l.
  Proof.
    intros Ev.
    enough (G : l <> [] /\ Rabs (m - dot l)
      <= ((1 + u) ^ length l - 1) * dot_of_magnitudes l + INR (length l) * eta * (1 + u) ^ length l) by apply G.
    induction Ev as [a b m Rm | l k p q m _ [Ln IHl] _ [Kn IHk] Rm | l p a b m _ [Ln IH] Rm | l k m _ [Ln IH] Perm].
    - split; [easy|]. unfold dot, dot_of_magnitudes. simpl. apply rounds_of_exact in Rm; [|exact U].
      rewrite Rabs_mult in Rm. rewrite !Rplus_0_r. nra.
    - split; [destruct l; [congruence | discriminate]|].
      assert (Ll : (1 <= length l)%nat) by (destruct l; [congruence | simpl; lia]).
      assert (Lk : (1 <= length k)%nat) by (destruct k; [congruence | simpl; lia]).
      set (n := length (l ++ k)). assert (N : n = (length l + length k)%nat) by apply app_length.
      assert (D : dot (l ++ k) = dot l + dot k) by apply sum_over_app.
      assert (M : dot_of_magnitudes (l ++ k) = dot_of_magnitudes l + dot_of_magnitudes k) by apply sum_over_app.
      rewrite D, M. assert (Sl := Rle_trans _ _ _ (Rabs_pos _) (dot_at_most_magnitudes l)).
      assert (Sk := Rle_trans _ _ _ (Rabs_pos _) (dot_at_most_magnitudes k)).
      set (G := (1 + u) ^ (n - 1)).
      assert (Gn : (1 + u) ^ n = (1 + u) * G).
      { unfold G. replace n with (S (n - 1)) at 1 by lia. reflexivity. }
      destruct (growth_mono (length l) (n - 1) ltac:(lia)) as [_ Gl].
      destruct (growth_mono (length k) (n - 1) ltac:(lia)) as [G1 Gk]. fold G in Gl, Gk, G1.
      assert (El : 0 <= INR (length l) * eta) by (apply Rmult_le_pos; [apply pos_INR | exact Eta]).
      assert (Ek : 0 <= INR (length k) * eta) by (apply Rmult_le_pos; [apply pos_INR | exact Eta]).
      assert (B : Rabs (p + q - (dot l + dot k)) <= (G - 1) * (dot_of_magnitudes l + dot_of_magnitudes k)
        + INR n * eta * G).
      { replace (p + q - (dot l + dot k)) with ((p - dot l) + (q - dot k)) by ring.
        apply Rle_trans with (1 := Rabs_triang _ _). rewrite N, plus_INR. nra. }
      apply one_rounding_more with (m := m) (d := 0) in B; [| |exact Rm].
      + rewrite Gn. apply Rle_trans with (1 := B). lra.
      + apply Rle_trans with (1 := Rabs_triang _ _).
        apply Rplus_le_compat; apply dot_at_most_magnitudes.
    - split; [easy|]. assert (D : dot ((a, b) :: l) = a * b + dot l) by reflexivity.
      assert (M : dot_of_magnitudes ((a, b) :: l) = Rabs a * Rabs b + dot_of_magnitudes l) by reflexivity.
      rewrite D, M. simpl length. simpl pow. rewrite S_INR. set (G := (1 + u) ^ length l) in *.
      assert (G1 : 1 <= G) by (apply pow_R1_Rle; lra).
      assert (Sl := Rle_trans _ _ _ (Rabs_pos _) (dot_at_most_magnitudes l)).
      assert (P : 0 <= Rabs a * Rabs b) by (apply Rmult_le_pos; apply Rabs_pos).
      assert (B : Rabs (p + a * b - (a * b + dot l)) <= (G - 1) * (Rabs a * Rabs b + dot_of_magnitudes l)
        + INR (length l) * eta * G).
      { replace (p + a * b - (a * b + dot l)) with (p - dot l) by ring. nra. }
      apply one_rounding_more with (m := m) (d := eta) in B; [| |exact Rm].
      + apply Rle_trans with (1 := B). assert (0 <= eta * ((1 + u) * G - 1)) by (apply Rmult_le_pos; nra). lra.
      + apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult. assert (Q := dot_at_most_magnitudes l). lra.
    - split.
      + intros ->. apply Permutation_sym, Permutation_nil in Perm. contradiction.
      + unfold dot, dot_of_magnitudes in *. rewrite <- (Permutation_length Perm).
        now rewrite <- !(sum_over_permuted _ l k Perm).
  Qed.

  (* |m - sum a| <= ((1 + u)^(n - 1) - 1) sum |a| *)
  Theorem rounded_sum_error l m : evaluates_sum l m ->
    Rabs (m - total l) <= ((1 + u) ^ (length l - 1) - 1) * total_of_magnitudes l.
  Proof.
    intros Ev.
    enough (G : l <> [] /\ Rabs (m - total l) <= ((1 + u) ^ (length l - 1) - 1) * total_of_magnitudes l) by apply G.
    induction Ev as [a | l k p q m _ [Ln IHl] _ [Kn IHk] Rm | l k m _ [Ln IH] Perm].
    - split; [easy|]. unfold total. simpl. replace (a - (a + 0)) with 0 by ring. rewrite Rabs_R0. lra.
    - split; [destruct l; [congruence | discriminate]|].
      assert (Ll : (1 <= length l)%nat) by (destruct l; [congruence | simpl; lia]).
      assert (Lk : (1 <= length k)%nat) by (destruct k; [congruence | simpl; lia]).
      set (n := length (l ++ k)). assert (N : n = (length l + length k)%nat) by apply app_length.
      assert (D : total (l ++ k) = total l + total k) by apply sum_over_app.
      assert (M : total_of_magnitudes (l ++ k) = total_of_magnitudes l + total_of_magnitudes k) by apply sum_over_app.
      rewrite D, M. assert (Sl := Rle_trans _ _ _ (Rabs_pos _) (total_at_most_magnitudes l)).
      assert (Sk := Rle_trans _ _ _ (Rabs_pos _) (total_at_most_magnitudes k)).
      set (G := (1 + u) ^ (n - 2)).
      assert (Gn : (1 + u) ^ (n - 1) = (1 + u) * G).
      { unfold G. replace (n - 1)%nat with (S (n - 2)) by lia. reflexivity. }
      destruct (growth_mono (length l - 1) (n - 2) ltac:(lia)) as [_ Gl].
      destruct (growth_mono (length k - 1) (n - 2) ltac:(lia)) as [_ Gk]. fold G in Gl, Gk.
      assert (B : Rabs (p + q - (total l + total k)) <= (G - 1) * (total_of_magnitudes l + total_of_magnitudes k) + 0).
      { replace (p + q - (total l + total k)) with ((p - total l) + (q - total k)) by ring.
        apply Rle_trans with (1 := Rabs_triang _ _). nra. }
      apply one_rounding_more with (m := m) (d := 0) in B; [| |exact Rm].
      + rewrite Gn. apply Rle_trans with (1 := B). lra.
      + apply Rle_trans with (1 := Rabs_triang _ _). apply Rplus_le_compat; apply total_at_most_magnitudes.
    - split.
      + intros ->. apply Permutation_sym, Permutation_nil in Perm. contradiction.
      + unfold total, total_of_magnitudes in *. rewrite <- (Permutation_length Perm).
        now rewrite <- !(sum_over_permuted _ l k Perm).
  Qed.

  (* ---------- on balls ---------- *)

  Definition mids (pairs : list (ball * ball)) : list (R * R) := map (fun t => (mid (fst t), mid (snd t))) pairs.

  (* |a| (growth |b| + s) + r (|b| + s), summed *)
  Definition dot_radius (growth : R) (pairs : list (ball * ball)) : R :=
    sum_over (fun t => Rabs (mid (fst t)) * (growth * Rabs (mid (snd t)) + rad (snd t))
                       + rad (fst t) * (Rabs (mid (snd t)) + rad (snd t))) pairs.

  Lemma dot_within (pairs : list (ball * ball)) (values : list (R * R)) :
    Forall2 (fun t v => contains (fst t) (fst v) /\ contains (snd t) (snd v)) pairs values ->
    Rabs (dot values - dot (mids pairs)) <= dot_radius 0 pairs.
  Proof.
    unfold dot, mids, dot_radius. induction 1 as [|t v pairs values [A B] _ IH]; simpl.
    - rewrite Rminus_0_r, Rabs_R0. lra.
    - assert (P := product_within (fst t) (snd t) (fst v) (snd v) A B).
      regroup.
      apply Rle_trans with (1 := Rabs_triang _ _). lra.
  Qed.

  (* Ball.__matmul__, an entry of it: growth at least (1 + u)^n - 1, such as gamma_n, and
       sum_i |a_i| (growth |b_i| + s_i) + r_i (|b_i| + s_i)  +  n eta (1 + u)^n  <=  R *)
  Theorem dot_product_contains (pairs : list (ball * ball)) (values : list (R * R)) m growth R' :
    Forall2 (fun t v => contains (fst t) (fst v) /\ contains (snd t) (snd v)) pairs values ->
    evaluates_dot (mids pairs) m ->
    (1 + u) ^ length pairs - 1 <= growth ->
    dot_radius growth pairs + INR (length pairs) * eta * (1 + u) ^ length pairs <= R' ->
    contains {| mid := m; rad := R' |} (dot values).
  Proof.
    intros In Ev Growth Le. apply rounded_dot_error in Ev. unfold mids in Ev at 2 4 5. rewrite map_length in Ev.
    assert (W := dot_within pairs values In). unfold contains. simpl. apply Rle_trans with (2 := Le).
    apply Rle_trans with (1 := contains_through m _ _ _ _ W Ev).
    assert (S : dot_radius growth pairs = dot_radius 0 pairs + growth * dot_of_magnitudes (mids pairs)).
    { unfold dot_radius, dot_of_magnitudes, mids. rewrite sum_over_map, <- sum_over_scal, <- sum_over_plus.
      apply sum_over_ext_on. intros; simpl; ring. }
    rewrite S. assert (P := Rle_trans _ _ _ (Rabs_pos _) (dot_at_most_magnitudes (mids pairs))). nra.
  Qed.

  (* Ball.sum: growth at least (1 + u)^(n - 1) - 1, such as gamma_(n-1), and  sum_i r_i + growth sum_i |a_i| <= R *)
  Theorem sum_of_balls_contains (balls : list ball) (values : list R) m growth R' :
    Forall2 contains balls values -> evaluates_sum (map mid balls) m ->
    (1 + u) ^ (length balls - 1) - 1 <= growth ->
    sum_over rad balls + growth * total_of_magnitudes (map mid balls) <= R' ->
    contains {| mid := m; rad := R' |} (total values).
  Proof.
    intros In Ev Growth Le. apply rounded_sum_error in Ev. rewrite map_length in Ev.
    assert (W : Rabs (total values - total (map mid balls)) <= sum_over rad balls).
    { clear - In. unfold total. induction In as [|b x balls values C _ IH]; simpl.
      - rewrite Rminus_0_r, Rabs_R0. lra.
      - regroup.
        apply Rle_trans with (1 := Rabs_triang _ _). unfold contains in C. lra. }
    unfold contains. simpl. apply Rle_trans with (2 := Le). apply Rle_trans with (1 := contains_through m _ _ _ _ W Ev).
    assert (P := Rle_trans _ _ _ (Rabs_pos _) (total_at_most_magnitudes (map mid balls))). nra.
  Qed.
End Evaluation.
