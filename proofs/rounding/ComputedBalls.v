(* Sums of two balls, products, quotients and dot products as Ball computes them in float64, radii and all.

   Each step of Ball.__add__, __mul__, __truediv__ and __matmul__ (lean_mnist/enclosure/ball.py) is a rounded operation
   here, in the code's order; c stands for the factor 1 + 2 gamma_(k+2) of `raised` as computed, which is at least
   1 + 2 (k + 2) u, and tiny for TINY. The conclusion is that the ball contains the exact result. Where the code leaves
   TINY out because nothing can underflow (`safe` in __matmul__), and in its faster forms for exact operands, its radius
   is not covered by the theorem on dot products here, but by the rule in DotProduct.v. *)
Require Import Reals Lra Lia Psatz List.
Import ListNotations.
From LeanMnist Require Import generalization.Distribution rounding.FloatingPoint rounding.Balls rounding.DotProduct
  rounding.RaisedRadii.
Open Scope R_scope.

Section Computed.
  Variables u eta tiny : R.
  Hypothesis U : 0 <= u <= 1 / 16.
  Hypothesis Eta : 0 <= eta.
  Hypothesis Tiny : 12 * eta <= tiny.
  Local Notation "| z |" := (Rabs z) (at level 35, z at level 60).
  Local Notation "x ~> y" := (rounds u 0 x y) (at level 70).            (* y = fl(x), x a sum of floats *)
  Local Notation "x ~~> y" := (rounds u eta x y) (at level 70).         (* y = fl(x), which may underflow *)
  Let U2 : 0 <= u <= 1 / 2. Proof. lra. Qed.

  (* Ball.__add__: raised(self.rad + other.rad + rounding_of(mid), 2) *)
  Theorem computed_sum_contains A B x y m p q c R' : contains A x -> contains B y ->
    mid A + mid B ~> m ->
    rad A + rad B ~> p -> p + u * |m| ~> q -> 1 + 2 * INR 4 * u <= c ->
    c * q ~> R' \/ rad A + rad B + u * |m| <= q <= R' ->
    contains {| mid := m; rad := R' |} (x + y).
  Proof.
    intros InA InB M P Q C Up. apply (sum_contains u (proj1 U) A B x y m R' InA InB M).
    assert (Ra := rad_nonneg A x InA). assert (Rb := rad_nonneg B y InB).
    assert (V : 0 <= u * |m|) by (apply Rmult_le_pos; [lra | apply Rabs_pos]).
    assert (S1 := short_sum u U2 0 0 0 _ _ _ _ p (short_exact u _ Ra) (short_exact u _ Rb) P).
    assert (S2 := short_sum u U2 1 _ 0 _ _ _ _ q S1 (short_more u U2 0 1 _ _ _ (short_exact u _ V) ltac:(lia)) Q).
    rewrite !Rplus_0_r in S2. apply (raised_is_above u U2 2 _ q c R' S2); try assumption. simpl. lra.
  Qed.

  (* Ball.__mul__: raised_products(|a| * s + r * (|b| + s) + rounding_of(mid), 6) *)
  Theorem computed_product_contains A B x y m f g h p q c z R' : contains A x -> contains B y ->
    mid A * mid B ~~> m ->
    |mid A| * rad B ~~> f -> |mid B| + rad B ~> g -> rad A * g ~~> h -> f + h ~> p -> p + u * |m| ~> q ->
    1 + 2 * INR 8 * u <= c <= 2 -> c * q ~~> z -> z + tiny ~> R' ->
    contains {| mid := m; rad := R' |} (x * y).
  Proof.
    intros InA InB M F G H P Q C Z Up. apply (product_contains u eta (proj1 U) A B x y m R' InA InB M).
    assert (Ra := rad_nonneg A x InA). assert (Rb := rad_nonneg B y InB).
    assert (V : 0 <= u * |m|) by (apply Rmult_le_pos; [lra | apply Rabs_pos]).
    assert (Sf := short_product u eta U2 Eta 0 0 _ _ _ f (Rabs_pos (mid A)) (short_exact u _ Rb) F).
    assert (Sg := short_sum u U2 0 0 0 _ _ _ _ g (short_exact u _ (Rabs_pos (mid B))) (short_exact u _ Rb) G).
    assert (Sh := short_product u eta U2 Eta 1 _ _ _ _ h Ra Sg H).
    assert (Sp := short_sum u U2 2 _ _ _ _ _ _ p (short_more u U2 1 2 _ _ _ Sf ltac:(lia)) Sh P).
    assert (Sq := short_sum u U2 3 _ 0 _ _ _ _ q Sp (short_more u U2 0 3 _ _ _ (short_exact u _ V) ltac:(lia)) Q).
    apply (short_more u U2 4 6) in Sq; [|lia].
    apply (raised_products_is_above u eta tiny U2 Eta 6 _ eta _ q c z R' Sq); try assumption; try (simpl; lra).
  Qed.

  (* Ball.__truediv__: size = raised_products(|mid|, 1), above = raised_products(r + size * s, 3),
     raised_products(above / smallest + rounding_of(mid), 3); smallest is a lower bound of |b| - s. *)
  Theorem computed_quotient_contains A B x y m low c1 size0 size f p c3 above0 above g q q0 R' :
    contains A x -> contains B y -> mid A / mid B ~~> m -> 0 < low <= |mid B| - rad B ->
    1 + 2 * INR 3 * u <= c1 <= 2 -> c1 * |m| ~~> size0 -> size0 + tiny ~> size ->
    size * rad B ~~> f -> rad A + f ~> p ->
    1 + 2 * INR 5 * u <= c3 <= 2 -> c3 * p ~~> above0 -> above0 + tiny ~> above ->
    above / low ~~> g -> g + u * |m| ~> q -> c3 * q ~~> q0 -> q0 + tiny ~> R' ->
    contains {| mid := m; rad := R' |} (x / y).
  Proof.
    intros InA InB M Low C1 S0 S1 F P C3 A0 A1 G Q Q0 Up.
    assert (Ra := rad_nonneg A x InA). assert (Rb := rad_nonneg B y InB).
    assert (V : 0 <= u * |m|) by (apply Rmult_le_pos; [lra | apply Rabs_pos]).
    assert (Size : |mid A / mid B| + 0 <= size).
    { apply (raised_products_is_above u eta tiny U2 Eta 1 eta 0 _ (|m|) c1 size0 size); try assumption;
        try (simpl; lra).
      repeat split; try apply Rabs_pos; try assumption. simpl. apply rounds_of_exact in M; [|lra].
      assert (T := Rabs_triang m (- (m - mid A / mid B))). rewrite Rabs_Ropp in T.
      replace (m + - (m - mid A / mid B)) with (mid A / mid B) in T by ring. lra. }
    assert (Sn : 0 <= size) by (assert (X := Rabs_pos (mid A / mid B)); lra).
    assert (Sf := short_product u eta U2 Eta 0 0 _ _ _ f Sn (short_exact u _ Rb) F).
    assert (Sp := short_sum u U2 1 0 _ _ _ _ _ p (short_more u U2 0 1 _ _ _ (short_exact u _ Ra) ltac:(lia)) Sf P).
    apply (short_more u U2 2 3) in Sp; [|lia].
    assert (Above : rad A + size * rad B + 0 <= above).
    { apply (raised_products_is_above u eta tiny U2 Eta 3 _ 0 _ p c3 above0 above Sp); try assumption;
        try (simpl; lra). }
    assert (An : 0 <= above) by (assert (0 <= size * rad B) by (apply Rmult_le_pos; assumption); lra).
    assert (Li : 0 < / low) by (apply Rinv_0_lt_compat; lra).
    unfold Rdiv in G. rewrite Rmult_comm in G.
    assert (Sg := short_product u eta U2 Eta 0 0 _ _ _ g (Rlt_le _ _ Li) (short_exact u _ An) G).
    assert (Sq := short_sum u U2 1 _ 0 _ _ _ _ q Sg (short_more u U2 0 1 _ _ _ (short_exact u _ V) ltac:(lia)) Q).
    apply (short_more u U2 2 3) in Sq; [|lia].
    assert (Last := raised_products_is_above u eta tiny U2 Eta 3 _ eta _ q c3 q0 R' Sq Eta ltac:(simpl; lra)
      ltac:(simpl; simpl in C3; lra) ltac:(lra) Q0 Up).
    apply (quotient_contains u eta (proj1 U) A B x y m R' InA InB low size M Low ltac:(lra)).
    apply Rle_trans with (2 := Last). apply Rplus_le_compat_r, Rplus_le_compat_r.
    unfold Rdiv. rewrite (Rmult_comm _ (/ low)). apply Rmult_le_compat_l; lra.
  Qed.

  (* Ball.__matmul__, an entry: raised(a @ above_b + r @ above_c, n + 1) + TINY, where above_b is at least
     growth |b| + s and above_c at least |b| + s, entry by entry. *)
  Theorem computed_dot_product_contains (pairs : list (ball * ball)) (values : list (R * R))
      (above_b above_c : ball -> R) growth m p q e c z R' :
    let n := length pairs in
    Forall2 (fun t v => contains (fst t) (fst v) /\ contains (snd t) (snd v)) pairs values ->
    (1 + u) ^ n - 1 <= growth ->
    Forall (fun t => growth * |mid (snd t)| + rad (snd t) <= above_b (snd t)
                     /\ |mid (snd t)| + rad (snd t) <= above_c (snd t)) pairs ->
    evaluates_dot u eta (mids pairs) m ->
    evaluates_dot u eta (map (fun t => (|mid (fst t)|, above_b (snd t))) pairs) p ->
    evaluates_dot u eta (map (fun t => (rad (fst t), above_c (snd t))) pairs) q ->
    p + q ~> e -> 2 * INR (n + 3) * u <= 1 -> 1 + 2 * INR (n + 3) * u <= c <= 2 -> c * e ~~> z -> z + tiny ~> R' ->
    2 * (2 * (INR n * eta + INR n * eta) + INR n * eta * (1 + u) ^ n + eta) <= tiny ->
    contains {| mid := m; rad := R' |} (dot values).
  Proof.
    intros n In Growth Above M P Q E K C Z Up Small.
    assert (G0 : 0 <= growth) by (assert (1 <= (1 + u) ^ n) by (apply pow_R1_Rle; lra); lra).
    assert (Rads : Forall (fun t => 0 <= rad (fst t) /\ 0 <= rad (snd t)) pairs).
    { clear - In. induction In as [|t v l k [A B] _ IH]; constructor; [|exact IH].
      split; [exact (rad_nonneg _ _ A) | exact (rad_nonneg _ _ B)]. }
    assert (Sp := short_dot u eta U2 Eta _ p P). assert (Sq := short_dot u eta U2 Eta _ q Q).
    rewrite map_length in Sp, Sq. fold n in Sp, Sq.
    assert (Np : Forall (fun p => 0 <= fst p /\ 0 <= snd p) (map (fun t => (|mid (fst t)|, above_b (snd t))) pairs)).
    { apply Forall_forall. intros o O. apply in_map_iff in O as (t & <- & T). simpl. split; [apply Rabs_pos|].
      destruct (proj1 (Forall_forall _ _) Above t T) as [X _]. destruct (proj1 (Forall_forall _ _) Rads t T) as [_ Y].
      assert (W := Rabs_pos (mid (snd t))). nra. }
    assert (Nq : Forall (fun p => 0 <= fst p /\ 0 <= snd p) (map (fun t => (rad (fst t), above_c (snd t))) pairs)).
    { apply Forall_forall. intros o O. apply in_map_iff in O as (t & <- & T). simpl.
      destruct (proj1 (Forall_forall _ _) Above t T) as [_ X]. destruct (proj1 (Forall_forall _ _) Rads t T) as [Y Y'].
      assert (W := Rabs_pos (mid (snd t))). split; lra. }
    assert (Se := short_sum u U2 n _ _ _ _ _ _ e (Sp Np) (Sq Nq) E).
    replace (S n) with (n + 1)%nat in Se by lia. replace (n + 3)%nat with (n + 1 + 2)%nat in K, C by lia.
    assert (T' : 0 <= INR n * eta * (1 + u) ^ n).
    { apply Rmult_le_pos; [apply Rmult_le_pos; [apply pos_INR | exact Eta] | apply pow_le; lra]. }
    assert (Last := raised_products_is_above u eta tiny U2 Eta (n + 1) _ _ _ e c z R' Se T' K C Small Z Up).
    apply (dot_product_contains u eta (proj1 U) Eta pairs values m growth R' In M Growth). fold n.
    apply Rle_trans with (2 := Last). apply Rplus_le_compat_r. unfold dot, dot_radius.
    rewrite !sum_over_map, <- sum_over_plus. apply sum_over_le_on. intros t T. simpl.
    destruct (proj1 (Forall_forall _ _) Above t T) as [X Y]. destruct (proj1 (Forall_forall _ _) Rads t T) as [Ra _].
    apply Rplus_le_compat; apply Rmult_le_compat_l; try assumption. apply Rabs_pos.
  Qed.
End Computed.

(* In float64, u = 2^-53 and tiny = 2^-1022 = 2^52 eta, there is room for dot products of up to 2^40 terms. *)
Theorem float64_has_room eta n : let u := / 2 ^ 53 in let tiny := 2 ^ 52 * eta in 0 <= eta -> INR n <= 2 ^ 40 ->
  u <= 1 / 16 /\ 12 * eta <= tiny /\ 2 * INR (n + 3) * u <= 1
  /\ 2 * (2 * (INR n * eta + INR n * eta) + INR n * eta * (1 + u) ^ n + eta) <= tiny.
Proof.
  intros u tiny Eta N. assert (P := pos_INR n). assert (Ub : 0 < u <= 1 / 2 ^ 43) by (unfold u; lra).
  assert (G := growth_times u ltac:(lra) n). assert (Q : 1 <= (1 + u) ^ n) by (apply pow_R1_Rle; lra).
  set (g := (1 + u) ^ n) in *.
  assert (Nu : INR n * u <= 2 ^ 40 * (1 / 2 ^ 43)) by (apply Rmult_le_compat; lra).
  assert (g <= 2).
  { assert (g * (1 / 2) <= g * (1 - INR n * u)) by (apply Rmult_le_compat_l; lra). lra. }
  assert (Ne : INR n * eta <= 2 ^ 40 * eta) by (apply Rmult_le_compat_r; assumption).
  assert (Nn : 0 <= INR n * eta) by (apply Rmult_le_pos; assumption).
  assert (Ng : INR n * eta * g <= INR n * eta * 2) by (apply Rmult_le_compat_l; assumption).
  rewrite plus_INR. unfold tiny. simpl (INR 3). repeat split; lra.
Qed.
