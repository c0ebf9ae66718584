(* Parameters as one vector, and back: weight row by row, then bias, first layer first; inverse to each other both ways.

   The order is that of lean_mnist.nn.parameters. Shapes say of each layer how many units and features it has, and
   whether it has a bias. Nothing is computed with the numbers, so they may be of any type. *)
Require Import List Arith NArith Lia.
Import ListNotations.

Section Flattening.
  Context {T : Type}.

  Definition parameters : Type := list (list T) * option (list T). (* of one layer: weight and bias *)
  Record shape := { rows : nat; columns : nat; biased : bool }.

  Definition bias_size (s : shape) : nat := if biased s then rows s else 0.
  Definition size (s : shape) : nat := rows s * columns s + bias_size s.
  Definition total (shapes : list shape) : nat := list_sum (map size shapes).

  Definition flatten_layer (p : parameters) : list T :=
    concat (fst p) ++ match snd p with None => [] | Some b => b end.
  Definition flatten (layers : list parameters) : list T := concat (map flatten_layer layers).

  (* the first r pieces of c entries each *)
  Fixpoint pieces (r c : nat) (v : list T) : list (list T) :=
    match r with O => [] | S r' => firstn c v :: pieces r' c (skipn c v) end.

  Definition unflatten_layer (s : shape) (v : list T) : parameters :=
    (pieces (rows s) (columns s) v,
     if biased s then Some (firstn (rows s) (skipn (rows s * columns s) v)) else None).
  Fixpoint unflatten (shapes : list shape) (v : list T) : list parameters :=
    match shapes with [] => [] | s :: others => unflatten_layer s v :: unflatten others (skipn (size s) v) end.

  Definition fits (s : shape) (p : parameters) : Prop :=
    length (fst p) = rows s /\ Forall (fun row => length row = columns s) (fst p)
    /\ match snd p with None => biased s = false | Some b => biased s = true /\ length b = rows s end.

  Lemma length_concat c (m : list (list T)) :
    Forall (fun row => length row = c) m -> length (concat m) = length m * c.
  Proof. induction 1 as [|row m E _ IH]; simpl; [reflexivity|]. rewrite app_length. lia. Qed.

  Lemma pieces_concat c : forall (m : list (list T)) rest, Forall (fun row => length row = c) m ->
    pieces (length m) c (concat m ++ rest) = m.
  Proof.
    induction m as [|row m IH]; intros rest F; [reflexivity|]. inversion F as [|? ? E F']; subst. simpl.
    rewrite <- app_assoc, firstn_app, firstn_all, Nat.sub_diag. simpl. rewrite app_nil_r.
    f_equal. rewrite skipn_app, skipn_all, Nat.sub_diag. simpl. now apply IH.
  Qed.

  Lemma concat_pieces c : forall r v, r * c <= length v -> concat (pieces r c v) = firstn (r * c) v.
  Proof.
    induction r as [|r IH]; intros v L; [reflexivity|]. simpl. rewrite IH by (rewrite skipn_length; simpl in L; lia).
    rewrite <- (firstn_skipn c v) at 3. rewrite firstn_app, firstn_firstn, firstn_length.
    simpl in L. rewrite (Nat.min_r (c + r * c) c) by lia. f_equal. f_equal. lia.
  Qed.

  Lemma pieces_fit c : forall r v, r * c <= length v ->
    length (pieces r c v) = r /\ Forall (fun row => length row = c) (pieces r c v).
  Proof.
    induction r as [|r IH]; intros v L; simpl; [split; [reflexivity | constructor]|]. simpl in L.
    destruct (IH (skipn c v)) as [N F]; [rewrite skipn_length; lia|]. split; [now rewrite N|].
    constructor; [|exact F]. rewrite firstn_length. lia.
  Qed.

  Lemma flatten_layer_length s p : fits s p -> length (flatten_layer p) = size s.
  Proof.
    intros [N [F B]]. unfold flatten_layer, size, bias_size. rewrite app_length, (length_concat _ _ F), N.
    destruct (snd p); [destruct B as [-> ->] | rewrite B]; reflexivity.
  Qed.

  Lemma unflatten_flatten_layer s p rest : fits s p -> unflatten_layer s (flatten_layer p ++ rest) = p.
  Proof.
    intros [N [F B]]. destruct p as [m b]. simpl in *. unfold unflatten_layer, flatten_layer. simpl.
    rewrite <- app_assoc. f_equal; [rewrite <- N; now apply pieces_concat|].
    assert (L : length (concat m) = rows s * columns s) by (rewrite (length_concat _ _ F); now rewrite N).
    destruct b as [b|].
    - destruct B as [-> Lb]. f_equal. rewrite skipn_app, <- L, skipn_all, Nat.sub_diag. simpl.
      rewrite firstn_app, <- Lb, firstn_all, Nat.sub_diag. simpl. apply app_nil_r.
    - now rewrite B.
  Qed.

  (* unflatten o flatten is the identity on parameters of these shapes. *)
  Theorem unflatten_flatten : forall shapes layers,
    Forall2 fits shapes layers -> unflatten shapes (flatten layers) = layers.
  Proof.
    intros shapes layers F. induction F as [|s p shapes layers Fp F IH]; [reflexivity|].
    unfold flatten in *. simpl. rewrite unflatten_flatten_layer by exact Fp. f_equal.
    rewrite <- (flatten_layer_length s p Fp), skipn_app, skipn_all, Nat.sub_diag. exact IH.
  Qed.

  (* flatten o unflatten is the identity on vectors of the right length, whose layers then have these shapes. *)
  Theorem flatten_unflatten : forall shapes v, length v = total shapes ->
    flatten (unflatten shapes v) = v /\ Forall2 fits shapes (unflatten shapes v).
  Proof.
    induction shapes as [|s shapes IH]; intros v L.
    - destruct v; [|discriminate]. split; [reflexivity | constructor].
    - unfold total in L. simpl in L. fold (total shapes) in L. set (n := size s) in *.
      assert (Size : n = rows s * columns s + bias_size s) by reflexivity.
      destruct (IH (skipn n v)) as [E F]; [rewrite skipn_length; unfold total in *; lia|].
      assert (Here : flatten_layer (unflatten_layer s v) = firstn n v).
      { unfold flatten_layer, unflatten_layer. simpl. rewrite concat_pieces by lia.
        rewrite <- (firstn_skipn (rows s * columns s) v) at 3.
        rewrite firstn_app, firstn_firstn, firstn_length, Nat.min_r by lia. f_equal.
        unfold bias_size in *. destruct (biased s).
        - f_equal. lia.
        - replace (n - Nat.min (rows s * columns s) (length v)) with 0 by lia. reflexivity. }
      split.
      + unfold flatten in *. simpl. fold n. rewrite Here, E. apply firstn_skipn.
      + simpl. fold n. constructor; [|exact F]. unfold fits, unflatten_layer. simpl.
        destruct (pieces_fit (columns s) (rows s) v) as [N P]; [lia|]. split; [exact N|]. split; [exact P|].
        unfold bias_size in *. destruct (biased s); [|reflexivity]. split; [reflexivity|].
        rewrite firstn_length, skipn_length. lia.
  Qed.

  Lemma Forall2_nth {shapes layers} : Forall2 fits shapes layers -> forall k, k < length shapes ->
    fits (nth k shapes (Build_shape 0 0 false)) (nth k layers ([], None)).
  Proof.
    induction 1 as [|s p shapes layers Fp F IH]; intros [|k] K; simpl in *; try lia; [exact Fp | apply IH; lia].
  Qed.

  (* Where layer k begins; its weight's entry (j, i) and its bias's entry j stand at these places. *)
  Definition offset (shapes : list shape) (k : nat) : nat := total (firstn k shapes).

  Lemma nth_concat c d : forall (m : list (list T)) j i, Forall (fun row => length row = c) m ->
    j < length m -> i < c -> nth (j * c + i) (concat m) d = nth i (nth j m []) d.
  Proof.
    induction m as [|row m IH]; intros j i F J I; [simpl in J; lia|]. inversion F as [|? ? E F']; subst. simpl.
    destruct j as [|j]; [now apply app_nth1|]. simpl in J. rewrite app_nth2 by lia. rewrite <- (IH j i F') by lia.
    f_equal. lia.
  Qed.

  Lemma nth_flatten d : forall shapes layers k place, Forall2 fits shapes layers -> k < length shapes ->
    place < size (nth k shapes (Build_shape 0 0 false)) ->
    nth (offset shapes k + place) (flatten layers) d = nth place (flatten_layer (nth k layers ([], None))) d.
  Proof.
    intros shapes layers k place F. revert k place.
    induction F as [|s p shapes layers Fp F IH]; intros k place K P; [simpl in K; lia|].
    assert (L := flatten_layer_length s p Fp). unfold flatten, offset, total in *. simpl.
    destruct k as [|k]; simpl in K, P |- *; [apply app_nth1; lia|].
    rewrite app_nth2 by lia. rewrite <- (IH k place) by lia. f_equal. lia.
  Qed.

  Theorem weight_place d shapes layers k j i : Forall2 fits shapes layers -> k < length shapes ->
    let s := nth k shapes (Build_shape 0 0 false) in j < rows s -> i < columns s ->
    nth (offset shapes k + (j * columns s + i)) (flatten layers) d
    = nth i (nth j (fst (nth k layers ([], None))) []) d.
  Proof.
    intros F K s J I. assert (Fk := Forall2_nth F k K). fold s in Fk. destruct Fk as [N [Rows _]].
    rewrite nth_flatten by (try assumption; fold s; unfold size; nia).
    unfold flatten_layer. rewrite app_nth1; [apply nth_concat; auto; lia|].
    rewrite (length_concat _ _ Rows), N. nia.
  Qed.

  Theorem bias_place d shapes layers k j b : Forall2 fits shapes layers -> k < length shapes ->
    let s := nth k shapes (Build_shape 0 0 false) in snd (nth k layers ([], None)) = Some b -> j < rows s ->
    nth (offset shapes k + (rows s * columns s + j)) (flatten layers) d = nth j b d.
  Proof.
    intros F K s E J. assert (Fk := Forall2_nth F k K). fold s in Fk. destruct Fk as [N [Rows B]].
    rewrite E in B. destruct B as [B Lb].
    rewrite nth_flatten by (try assumption; fold s; unfold size, bias_size; rewrite B; nia).
    unfold flatten_layer. rewrite E, app_nth2; rewrite (length_concat _ _ Rows), N; [f_equal; nia | nia].
  Qed.
End Flattening.

(* LEAN_mnist's vector of 101,770: W1 at 0, b1 at 100,352, W2 at 100,480, b2 at 101,760. *)
Theorem layout_784_128_10 :
  let w1 := {| rows := 128; columns := 784; biased := true |} in
  let w2 := {| rows := 10; columns := 128; biased := true |} in
  map N.of_nat [offset [w1; w2] 0; offset [w1; w2] 0 + 128 * 784; offset [w1; w2] 1; offset [w1; w2] 1 + 10 * 128;
                total [w1; w2]]
  = [0; 100352; 100480; 101760; 101770]%N.
Proof. vm_compute. reflexivity. Qed.
