(* Parameters as one vector, and back: weight row by row, then bias, first layer first; inverse to each other both ways.

   The order is that of lean_mnist.nn.parameters. Shapes say of each layer how many units and features it has, and
   whether it has a bias. Nothing is computed with the numbers, so they may be of any type. *)
Require Import List Arith Lia.
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
End Flattening.
