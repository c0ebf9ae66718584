(* Errors of a quantised network of two-bit codes, counted with 63-bit machine integers, three units to a word.

   A unit's sum of code * pixel is at most 3 * 255 * (number of pixels), below 2^21 for up to 2741 pixels. So three rows
   of codes stand in one row of words, 21 bits a unit, and one pass over the pixels gives three sums; a row of ones
   among them gives the sum of the pixels. From there on whole numbers (Z) go through ReLU, the second layer and the
   largest logit. Proved for all networks that are [well_formed] and all words: no sum overflows its slot or the word
   ([packed_sums_are_sums]), and the count is that of the network as its definition reads ([count_is_errors]). *)
From Coq Require Import ZArith List Bool Lia Uint63.
From LeanMnist.generalization Require Import ClopperPearson.
From LeanMnist.certificates Require Import QuantisedNetwork PackedExamples.
Import ListNotations.
Open Scope Z_scope.

(* ---------- the count ---------- *)

Fixpoint dot63 (weights inputs : list int) (sum : int) : int :=
  match weights, inputs with
  | w :: ws, x :: xs => dot63 ws xs (sum + w * x)%uint63
  | _, _ => sum
  end.

Fixpoint packed_row (u v w : list Z) : list int :=
  match u, v, w with
  | a :: u', b :: v', c :: w' => of_Z (a + 2 ^ 21 * b + 2 ^ 42 * c) :: packed_row u' v' w'
  | _, _, _ => []
  end.
Definition nothing (row : list Z) : list Z := map (fun _ => 0) row.
Fixpoint packed_rows (rows : list (list Z)) : list (list int) :=
  match rows with
  | u :: v :: w :: rest => packed_row u v w :: packed_rows rest
  | [u; v] => [packed_row u v (nothing u)]
  | [u] => [packed_row u (nothing u) (nothing u)]
  | [] => []
  end.

Definition three_sums (word : int) : list Z :=
  [to_Z (word mod 2097152); to_Z (word / 2097152 mod 2097152); to_Z (word / 2097152 / 2097152)]%uint63.
Definition packed_sums (rows : list (list int)) (pixels : list int) : list Z :=
  flat_map (fun row => three_sums (dot63 row pixels 0)) rows.

Definition total (zs : list Z) : Z := fold_right Z.add 0 zs.
Definition hidden (n : network) (rows : list (list int)) (pixels : list int) : list Z :=
  match packed_sums rows pixels with
  | [] => []
  | s :: sums => map (fun sum => relu (shift1 n * s + scale1 n * sum)) (firstn (length (codes1 n)) sums)
  end.
Definition packed_logits (n : network) (rows : list (list int)) (pixels : list int) : list Z :=
  let inputs := hidden n rows pixels in
  let shift := shift2 n * total inputs in
  map (fun row => shift + scale2 n * dot row inputs) (codes2 n).
Definition packed_wrong (n : network) (rows : list (list int)) (e : packed_example) : bool :=
  let zs := packed_logits n rows (unpacked (snd e)) in negb (position (largest zs) zs =? to_Z (fst e)).

Fixpoint count_from (wrong : packed_example -> bool) (examples : list packed_example) (k : Z) : Z :=
  match examples with [] => k | e :: rest => count_from wrong rest (if wrong e then k + 1 else k) end.
Definition features (n : network) : nat := length (hd [] (codes1 n)).
Definition packed_network (n : network) : list (list int) := packed_rows (repeat 1 (features n) :: codes1 n).
Definition count (n : network) (examples : list packed_example) : Z :=
  let rows := packed_network n in count_from (packed_wrong n rows) examples 0.

(* Every row of the first layer has as many codes as there are pixels, few enough, and every code is 0, 1, 2 or 3;
   every row of the second layer has as many as there are hidden units. *)
Definition is_code (code : Z) : bool := (0 <=? code) && (code <=? 3).
Definition well_formed (n : network) : bool :=
  (765 * Z.of_nat (features n) <? 2 ^ 21)
  && forallb (fun row => Nat.eqb (length row) (features n) && forallb is_code row) (codes1 n)
  && forallb (fun row => Nat.eqb (length row) (length (codes1 n))) (codes2 n).

(* ---------- it is exact ---------- *)

Definition code_row (n : nat) (row : list Z) : Prop := length row = n /\ Forall (fun code => 0 <= code <= 3) row.

Lemma dot_bounds n row pixels : code_row n row -> Forall is_pixel pixels ->
  0 <= dot row (map to_Z pixels) <= 765 * Z.of_nat n.
Proof.
  intros [<- Hrow] Hpixels. revert pixels Hpixels. induction Hrow as [|code row H Hrow IH]; intros pixels Hpixels;
    [simpl; lia|]. destruct Hpixels as [|x xs Hx Hxs]; [simpl; lia|]. specialize (IH xs Hxs). red in Hx.
  cbn [dot map length]. nia.
Qed.

Lemma dot63_is_dot weights inputs sum :
  to_Z (dot63 weights inputs sum) = (to_Z sum + dot (map to_Z weights) (map to_Z inputs)) mod wB.
Proof.
  revert inputs sum. induction weights as [|w ws IH]; intros [|x xs] sum; cbn [dot63 map dot];
    try (rewrite Z.add_0_r; symmetry; apply Z.mod_small, to_Z_bounded).
  rewrite IH, add_spec, mul_spec, Z.add_mod_idemp_r, Z.add_mod_idemp_l by discriminate. f_equal. lia.
Qed.

Lemma packed_row_dot n u v w xs : code_row n u -> code_row n v -> code_row n w ->
  dot (map to_Z (packed_row u v w)) xs = dot u xs + 2 ^ 21 * dot v xs + 2 ^ 42 * dot w xs.
Proof.
  intros [<- Hu] [Lv Hv] [Lw Hw]. revert v w xs Lv Lw Hv Hw.
  induction Hu as [|a u Ha Hu IH]; intros [|b v] [|c w] xs Lv Lw Hv Hw; try discriminate; [now destruct xs|].
  inversion Hv as [|? ? Hb Hv']. inversion Hw as [|? ? Hc Hw']. subst.
  destruct xs as [|x xs]; [reflexivity|]. cbn [packed_row map dot].
  rewrite IH, of_Z_spec, Z.mod_small by (auto || (change wB with (2 ^ 63); lia)). ring.
Qed.

Lemma three_sums_spec word a b c : 0 <= a < 2 ^ 21 -> 0 <= b < 2 ^ 21 -> 0 <= c < 2 ^ 21 ->
  to_Z word = a + 2 ^ 21 * b + 2 ^ 42 * c -> three_sums word = [a; b; c].
Proof.
  intros Ha Hb Hc E. unfold three_sums. rewrite !mod_spec, !div_spec. change (to_Z 2097152) with (2 ^ 21).
  replace (to_Z word) with (a + (b + c * 2 ^ 21) * 2 ^ 21) by lia.
  rewrite Z.mod_add, Z.div_add, (Z.div_small a), Z.add_0_l, Z.mod_add, Z.div_add, (Z.div_small b) by lia.
  rewrite !Z.mod_small by lia. now rewrite Z.add_0_l.
Qed.

Lemma three_dots n u v w pixels : 765 * Z.of_nat n < 2 ^ 21 -> code_row n u -> code_row n v -> code_row n w ->
  Forall is_pixel pixels ->
  three_sums (dot63 (packed_row u v w) pixels 0) = map (fun row => dot row (map to_Z pixels)) [u; v; w].
Proof.
  intros Hn Hu Hv Hw Hpixels.
  pose proof (dot_bounds n u pixels Hu Hpixels). pose proof (dot_bounds n v pixels Hv Hpixels).
  pose proof (dot_bounds n w pixels Hw Hpixels).
  apply three_sums_spec; try lia. rewrite dot63_is_dot, (packed_row_dot n) by assumption. change (to_Z 0) with 0.
  rewrite Z.add_0_l. apply Z.mod_small. change wB with (2 ^ 63). lia.
Qed.

Lemma nothing_row n row : code_row n row -> code_row n (nothing row).
Proof.
  intros [<- _]. split; [apply map_length|]. apply Forall_map, Forall_forall. intros. lia.
Qed.

Fixpoint list_ind_by_three {A} (P : list A -> Prop) (P0 : P []) (P1 : forall a, P [a]) (P2 : forall a b, P [a; b])
    (P3 : forall a b c l, P l -> P (a :: b :: c :: l)) (l : list A) : P l :=
  match l with
  | [] => P0
  | [a] => P1 a
  | [a; b] => P2 a b
  | a :: b :: c :: l => P3 a b c l (list_ind_by_three P P0 P1 P2 P3 l)
  end.

(* For rows of n codes from 0 to 3 and pixels from 0 to 255, with 765 n < 2^21: the sums that come out of the words are
   the sums of code * pixel, exactly. *)
Theorem packed_sums_are_sums n rows pixels : 765 * Z.of_nat n < 2 ^ 21 -> Forall (code_row n) rows ->
  Forall is_pixel pixels ->
  firstn (length rows) (packed_sums (packed_rows rows) pixels) = map (fun row => dot row (map to_Z pixels)) rows.
Proof.
  intros Hn Hrows Hpixels. revert Hrows. unfold packed_sums.
  induction rows as [|u|u v|u v w rows IH] using list_ind_by_three; intros Hrows; repeat match goal with
    | H : Forall _ (_ :: _) |- _ => inversion H; clear H; subst end; cbn [packed_rows flat_map];
    try rewrite (three_dots n) by auto using nothing_row; try reflexivity.
  cbn [map app length firstn]. now rewrite IH.
Qed.

Lemma dot_affine shift scale row xs :
  dot (map (fun code => shift + scale * code) row) xs = shift * dot (repeat 1 (length row)) xs + scale * dot row xs.
Proof. revert xs. induction row as [|c row IH]; intros [|x xs]; cbn [map dot length repeat]; rewrite ?IH; ring. Qed.

Lemma dot_ones xs : dot (repeat 1 (length xs)) xs = total xs.
Proof.
  unfold total. induction xs as [|x xs IH]; [reflexivity|]. cbn [dot length repeat fold_right]. lia.
Qed.

Lemma well_formed_spec n : well_formed n = true ->
  765 * Z.of_nat (features n) < 2 ^ 21 /\ Forall (code_row (features n)) (codes1 n)
  /\ Forall (fun row => length row = length (codes1 n)) (codes2 n).
Proof.
  unfold well_formed. rewrite !andb_true_iff, !forallb_forall, Z.ltb_lt. intros [[H H1] H2].
  split; [assumption|]. rewrite !Forall_forall. split.
  - intros row I. specialize (H1 row I). apply andb_true_iff in H1. destruct H1 as [L C]. apply Nat.eqb_eq in L.
    split; [assumption|]. apply Forall_forall. rewrite forallb_forall in C. intros code Ic. specialize (C code Ic).
    unfold is_code in C. lia.
  - intros row I. now apply Nat.eqb_eq, H2.
Qed.

Lemma ones_row n : code_row n (repeat 1 n).
Proof.
  split; [apply repeat_length|]. apply Forall_forall. intros code I. apply repeat_spec in I. lia.
Qed.

Lemma hidden_is_hidden n pixels : well_formed n = true -> Forall is_pixel pixels ->
  hidden n (packed_network n) pixels
  = map relu (layer (shift1 n) (scale1 n) (codes1 n) (map to_Z pixels)).
Proof.
  intros H Hpixels. apply well_formed_spec in H. destruct H as (Hn & H1 & _).
  pose proof (packed_sums_are_sums _ (repeat 1 (features n) :: codes1 n) pixels Hn
    (Forall_cons _ (ones_row _) H1) Hpixels) as E.
  unfold hidden. fold (packed_network n) in E. destruct (packed_sums _ _) as [|s sums]; [discriminate|].
  injection E as -> ->. unfold layer. rewrite !map_map. apply map_ext_in. intros row I. rewrite dot_affine.
  rewrite Forall_forall in H1. destruct (H1 row I) as [-> _]. reflexivity.
Qed.

Lemma packed_logits_are_logits n pixels : well_formed n = true -> Forall is_pixel pixels ->
  packed_logits n (packed_network n) pixels = logits n (map to_Z pixels).
Proof.
  intros H Hpixels. unfold packed_logits. rewrite hidden_is_hidden by assumption.
  apply well_formed_spec in H. destruct H as (_ & _ & H2). rewrite Forall_forall in H2.
  unfold logits at 1. unfold layer at 1. set (inputs := map relu _).
  assert (L : length inputs = length (codes1 n)) by (subst inputs; unfold layer; now rewrite !map_length).
  apply map_ext_in. intros row I. rewrite dot_affine, (H2 row I), <- L, dot_ones. reflexivity.
Qed.

Lemma count_from_is_errors n rows examples k :
  (forall e, packed_wrong n rows e = wrong n (example_of e)) ->
  count_from (packed_wrong n rows) examples k = k + Z.of_nat (errors (wrong n) (examples_of examples)).
Proof.
  intros H. revert k. induction examples as [|e rest IH]; intros k; [simpl; lia|].
  cbn [count_from examples_of map errors]. fold (examples_of rest). rewrite IH, <- H.
  destruct (packed_wrong n rows e); lia.
Qed.

(* For every well-formed network and all words: the packed count is the number of errors of the network, as its
   definition reads, on the examples that the words stand for. *)
Theorem count_is_errors n examples : well_formed n = true ->
  count n examples = Z.of_nat (errors (wrong n) (examples_of examples)).
Proof.
  intros H. unfold count. rewrite count_from_is_errors; [apply Z.add_0_l|]. intros [label words].
  unfold packed_wrong, wrong, example_of, predicted, pixels_of. cbn [fst snd].
  now rewrite packed_logits_are_logits by (assumption || apply unpacked_are_pixels).
Qed.
