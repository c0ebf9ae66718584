(* Layers and stacks of layers: a dense layer is affine in its input and linear without its bias; layers and stacks of
   them preserve affine combinations; with the identity as activation a network is its dense layers one after another;
   and the dimensions of forward, tape and backward, whatever the numbers are. *)
Require Import Reals Lra Lia List.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers.

Section Dimensions.
  Context {T : Type} `{Numbers T}.

  (* D features in, H units out; B rows in, B rows out *)
  Theorem dense_forward_dimensions B D x (l : layer T) : shaped B (units l) (dense_forward B D x l).
  Proof. apply shaped_build. Qed.

  (* Gradients have the shapes of their variables, layer by layer. *)
  Fixpoint fit (D : nat) (layers : list (layer T)) (gradients : list (matrix T * option (vector T))) : Prop :=
    match layers, gradients with
    | [], [] => True
    | l :: above, g :: others =>
      shaped (units l) D (fst g)
      /\ match bias l, snd g with None, None => True | Some _, Some b => length b = units l | _, _ => False end
      /\ fit (units l) above others
    | _, _ => False
    end.

  (* The tape holds of each hidden layer an input of D features a row, and what its H units keep. *)
  Fixpoint tape_fits (B D : nat) (hidden : list (layer T)) (saved : list (matrix T * matrix T)) (last_x : matrix T) :=
    match hidden, saved with
    | [], [] => shaped B D last_x
    | l :: above, (x, s) :: others => shaped B D x /\ shaped B (units l) s /\ tape_fits B (units l) above others last_x
    | _, _ => False
    end.

  Lemma dense_backward_fits B D x (l : layer T) d_z :
    let g := dense_backward B D x l d_z in shaped B D (d_x g) /\ fit D [l] [(d_weight g, d_bias g)].
  Proof.
    simpl. repeat split; try apply shaped_build. destruct (bias l); [|exact I].
    unfold tabulate. now rewrite map_length, seq_length.
  Qed.

  (* Layers that fit compose to D features in and as many numbers out as the last has units; the tape, and the gradients
     of the input, of every weight and of every bias, fit. *)
  Theorem network_dimensions act B : forall hidden last D x d_s, shaped B D x ->
    shaped B (units last) (logits act B D x hidden last)
    /\ (let t := snd (mlp_forward act B D x hidden last) in tape_fits B D hidden (fst t) (snd t))
    /\ (let g := gradients act B D x hidden last d_s in shaped B D (fst g) /\ fit D (hidden ++ [last]) (snd g)).
  Proof.
    induction hidden as [|l above IH]; intros last D x d_s S.
    - split; [apply shaped_build|]. split; [exact S|]. apply dense_backward_fits.
    - assert (Sh : shaped B (units l) (activate act B (units l) (dense_forward B D x l))) by apply shaped_build.
      destruct (IH last (units l) _ d_s Sh) as [L [Tp [X G]]]. split; [exact L|]. split.
      + simpl. split; [exact S|]. split; [apply shaped_build | exact Tp].
      + unfold gradients in *. simpl in *.
        match goal with |- context [activate_backward act B (units l) ?s ?d] =>
          destruct (dense_backward_fits B D x l (activate_backward act B (units l) s d)) as [X' G'] end.
        simpl in X', G'. tauto.
  Qed.
End Dimensions.

Open Scope R_scope.

(* a x + b y, matrices of shape (B, D) *)
Definition combine (B D : nat) (a : R) (x : matrix R) (b : R) (y : matrix R) : matrix R :=
  build B D (fun i j => a * entry x i j + b * entry y i j).
Definition without_bias (l : layer R) : layer R := {| units := units l; weight := weight l; bias := None |}.

(* A dense layer is W x + b, entry by entry. *)
Theorem dense_forward_specification B D x l i j : (i < B)%nat -> (j < units l)%nat ->
  entry (dense_forward B D x l) i j
  = sum D (fun k => entry (weight l) j k * entry x i k) + match bias l with None => 0 | Some b => item b j end.
Proof.
  intros I J. unfold dense_forward. rewrite entry_build by auto.
  rewrite (sum_ext D (fun k => entry (weight l) j k * entry x i k) (fun k => entry x i k * entry (weight l) j k))
    by (intros; ring). unfold add_bias. destruct (bias l); real; ring.
Qed.

(* W (a x + b y) = a W x + b W y *)
Theorem dense_forward_linear B D a x b y l :
  dense_forward B D (combine B D a x b y) (without_bias l)
  = combine B (units l) a (dense_forward B D x (without_bias l)) b (dense_forward B D y (without_bias l)).
Proof.
  unfold combine at 2. unfold dense_forward at 1. simpl units. apply build_ext. intros i j I J.
  rewrite !dense_forward_specification by auto. simpl. real.
  rewrite !Rplus_0_r, <- !sum_scal, <- sum_plus. apply sum_ext. intros k K. unfold combine.
  rewrite entry_build by auto. ring.
Qed.

(* W (a x + b y) + bias = a W x + b W y + bias *)
Theorem dense_forward_affine B D a x b y l i j : (i < B)%nat -> (j < units l)%nat ->
  entry (dense_forward B D (combine B D a x b y) l) i j
  = a * entry (dense_forward B D x (without_bias l)) i j + b * entry (dense_forward B D y (without_bias l)) i j
    + match bias l with None => 0 | Some v => item v j end.
Proof.
  intros I J. assert (L := dense_forward_linear B D a x b y l).
  apply (f_equal (fun m => entry m i j)) in L. unfold combine in L at 2. rewrite entry_build in L by auto.
  rewrite <- L. rewrite !dense_forward_specification by auto. simpl. ring.
Qed.

(* With a + b = 1, a layer of a x + b y is a times the layer of x plus b times the layer of y. *)
Theorem layer_preserves_affine_combinations B D a x b y l : a + b = 1 ->
  dense_forward B D (combine B D a x b y) l
  = combine B (units l) a (dense_forward B D x l) b (dense_forward B D y l).
Proof.
  intros E. rewrite <- (build_entry _ _ _ (dense_forward_dimensions B D (combine B D a x b y) l)).
  apply build_ext. intros i j I J. rewrite dense_forward_affine, !dense_forward_specification by auto. simpl.
  destruct (bias l) as [v|]; [|ring]. replace (item v j) with ((a + b) * item v j) at 1 by (rewrite E; ring). ring.
Qed.

(* With the identity as activation a layer is W x + b ... *)
Theorem layer_with_identity B D x l :
  activate identity B (units l) (dense_forward B D x l) = dense_forward B D x l.
Proof. apply build_entry, dense_forward_dimensions. Qed.

(* ... and a network its dense layers one after another. *)
Fixpoint stack (B D : nat) (x : matrix R) (hidden : list (layer R)) (last : layer R) : matrix R :=
  match hidden with
  | [] => dense_forward B D x last
  | l :: above => stack B (units l) (dense_forward B D x l) above last
  end.

Theorem network_with_identity B : forall hidden last D x, logits identity B D x hidden last = stack B D x hidden last.
Proof.
  induction hidden as [|l above IH]; intros last D x; [reflexivity|].
  unfold logits in *. simpl. rewrite layer_with_identity. apply IH.
Qed.

(* A stack of any depth preserves affine combinations. *)
Theorem stack_preserves_affine_combinations B a b : a + b = 1 -> forall hidden last D x y,
  stack B D (combine B D a x b y) hidden last
  = combine B (units last) a (stack B D x hidden last) b (stack B D y hidden last).
Proof.
  intros E. induction hidden as [|l above IH]; intros last D x y; simpl.
  - now apply layer_preserves_affine_combinations.
  - rewrite layer_preserves_affine_combinations by exact E. apply IH.
Qed.
