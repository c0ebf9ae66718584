(* The manual backward pass of a multilayer perceptron is its derivative, in every weight, every bias and the input.

   For any depth, widths, parameters, batch and direction, with or without biases, for any activation that is
   differentiable wherever it is evaluated (for ReLU: no pre-activation of a hidden layer is 0), and for any loss whose
   gradient in the logits is given. CrossEntropy.v states it for softmax cross-entropy. What is proved is about the
   definitions in Network.v over the real numbers. *)
Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers gradients.Dense.
Open Scope R_scope.

(* At z the activation has a derivative, and its backward multiplies by it. *)
Definition differentiates (act : activation R) (z : R) : Prop :=
  exists d, is_derive (fun u => fst (act_forward act u)) z d
            /\ forall g, act_backward act (snd (act_forward act z)) g = g * d.

(* The activation does so at every pre-activation of every hidden layer, on every example of the batch. *)
Fixpoint off_the_kinks (act : activation R) (B D : nat) (x : matrix R) (hidden : list (layer R)) : Prop :=
  match hidden with
  | [] => True
  | l :: above =>
    let z := dense_forward B D x l in
    (forall b j, (b < B)%nat -> (j < units l)%nat -> differentiates act (entry z b j))
    /\ off_the_kinks act B (units l) (activate act B (units l) z) above
  end.

(* The hidden layers, each moved by t along its direction. *)
Fixpoint moved_all (D : nat) (hidden : list (layer R)) (directions : list direction) (t : R) : list (layer R) :=
  match hidden, directions with
  | l :: above, v :: others => moved D l v t :: moved_all (units l) above others t
  | _, _ => hidden
  end.

(* <gradients of all layers, directions> *)
Fixpoint pairing (D : nat) (hidden : list (layer R)) (last : layer R)
    (gradients : list (matrix R * option (vector R))) (directions : list direction) (of_last : direction) : R :=
  match hidden, gradients, directions with
  | [], g :: _, _ => layer_pairing (units last) D g of_last
  | l :: above, g :: others, v :: directions_above =>
    layer_pairing (units l) D g v + pairing (units l) above last others directions_above of_last
  | _, _, _ => 0
  end.

(* The width of what the last layer is given. *)
Fixpoint width (D : nat) (hidden : list (layer R)) : nat :=
  match hidden with [] => D | l :: above => width (units l) above end.

(* An activation's backward is the vector-Jacobian product of its forward, where it differentiates. *)
Lemma activation_vjp act B H (z : R -> matrix R) z' :
  moves B H z z' ->
  (forall b j, (b < B)%nat -> (j < H)%nat -> differentiates act (entry (z 0) b j)) ->
  exists h', moves B H (fun t => activate act B H (z t)) h'
  /\ forall d_h, inner B H d_h h' = inner B H (activate_backward act B H (kept act B H (z 0)) d_h) z'.
Proof.
  intros M OK.
  exists (build B H (fun b j =>
    entry z' b j * act_backward act (snd (act_forward act (entry (z 0) b j))) 1)).
  split.
  - intros b j Hb Hj. rewrite entry_build by auto. destruct (OK b j Hb Hj) as [d [Hd Back]].
    rewrite Back, Rmult_1_l.
    apply (is_derive_ext (fun t => fst (act_forward act (entry (z t) b j)))).
    { intros t. unfold activate. now rewrite entry_build. }
    apply (is_derive_comp (fun u => fst (act_forward act u)) (fun t => entry (z t) b j)); auto.
  - intros d_h. unfold inner. apply sum_ext. intros b Hb. apply sum_ext. intros j Hj.
    unfold activate_backward, kept. rewrite !entry_build by auto. destruct (OK b j Hb Hj) as [d [Hd Back]].
    rewrite !Back. ring.
Qed.

(* The backward of a hidden layer act(x W^T + b) is its vector-Jacobian product in W, b and x. *)
Theorem layer_backward_is_vjp act B D (x : R -> matrix R) x' l v :
  moves B D x x' ->
  (forall b j, (b < B)%nat -> (j < units l)%nat -> differentiates act (entry (dense_forward B D (x 0) l) b j)) ->
  exists h',
    moves B (units l) (fun t => activate act B (units l) (dense_forward B D (x t) (moved D l v t))) h'
    /\ forall d_h,
      let d_z := activate_backward act B (units l) (kept act B (units l) (dense_forward B D (x 0) l)) d_h in
      let g := dense_backward B D (x 0) l d_z in
      inner B (units l) d_h h' = inner B D (d_x g) x' + layer_pairing (units l) D (d_weight g, d_bias g) v.
Proof.
  intros M OK. assert (Z0 := dense_forward_moved_0 B D (x 0) (x 0) l v (fun _ _ _ _ => eq_refl)).
  rewrite <- Z0 in OK |- *.
  destruct (activation_vjp act B (units l) _ _ (dense_forward_derivative B D x x' l v M) OK) as [h' [Mh Vh]].
  exists h'. split; [exact Mh|]. intros d_h d_z g. rewrite Vh. apply dense_backward_is_vjp.
Qed.

(* The backward is the vector-Jacobian product of the network: if the input moves along any curve and the parameters
   along any directions, the logits move so that, for every gradient d_s of the logits,
     <d_s, logits'> = <gradient of the input, input'> + <gradients of the layers, directions>. *)
Theorem mlp_backward_is_vjp act B : forall hidden last directions of_last D (x : R -> matrix R) x',
  length directions = length hidden ->
  moves B D x x' ->
  off_the_kinks act B D (x 0) hidden ->
  exists s',
    moves B (units last)
      (fun t => logits act B D (x t) (moved_all D hidden directions t) (moved (width D hidden) last of_last t)) s'
    /\ forall d_s,
      let g := gradients act B D (x 0) hidden last d_s in
      inner B (units last) d_s s' = inner B D (fst g) x' + pairing D hidden last (snd g) directions of_last.
Proof.
  induction hidden as [|l above IH]; intros last [|v directions] of_last D x x' Len M OK; try discriminate.
  - exists (dense_motion B D (x 0) x' last of_last). split; [now apply dense_forward_derivative|].
    intros d_s g. apply dense_backward_is_vjp.
  - destruct OK as [Here Above]. injection Len as Len.
    destruct (layer_backward_is_vjp act B D x x' l v M Here) as [h' [Mh Vh]].
    set (h := fun t => activate act B (units l) (dense_forward B D (x t) (moved D l v t))) in *.
    assert (H0 : h 0 = activate act B (units l) (dense_forward B D (x 0) l)).
    { unfold h. now rewrite (dense_forward_moved_0 B D (x 0) (x 0)). }
    destruct (IH last directions of_last (units l) h h' Len Mh) as [s' [Ms Vs]]; [now rewrite H0|].
    exists s'. split; [exact Ms|]. intros d_s g. rewrite Vs, Vh, H0. unfold g, gradients. simpl. ring.
Qed.

(* A function of the logits has at s the gradient d_s: along every curve through s its derivative is <d_s, s'>. *)
Definition gradient_in_logits (B C : nat) (loss : matrix R -> R) (s d_s : matrix R) : Prop :=
  forall (curve : R -> matrix R) s', curve 0 = s -> moves B C curve s' ->
  is_derive (fun t => loss (curve t)) 0 (inner B C d_s s').

(* The parameters of `moved_all` at 0 are the parameters: the logits are the same. *)
Lemma logits_moved_0 act B : forall hidden last directions of_last D x,
  logits act B D x (moved_all D hidden directions 0) (moved (width D hidden) last of_last 0)
  = logits act B D x hidden last.
Proof.
  assert (Keep : forall last of_last hidden D x,
    logits act B D x hidden (moved (width D hidden) last of_last 0) = logits act B D x hidden last).
  { induction hidden as [|l above IH]; intros D x; [now apply dense_forward_moved_0 | apply IH]. }
  induction hidden as [|l above IH]; intros last [|v directions] of_last D x; try apply Keep.
  unfold logits in *. simpl. rewrite (dense_forward_moved_0 B D x x) by auto. apply IH.
Qed.

Lemma line_0 r c m v : shaped r c m -> line r c m v 0 = m.
Proof.
  intros S. rewrite <- (build_entry r c m S) at 2. apply build_ext. intros i j _ _. ring.
Qed.

(* The derivative of the loss of a network, along any direction in all weights, biases and the input, is the inner
   product of what the manual backward returns with that direction:
     d/dt loss(logits(x + t x', parameters + t V)) at 0  =  <dx, x'> + sum over layers of <dW, V_W> + <db, V_b>. *)
Theorem backward_is_derivative act B D x x' hidden last directions of_last (loss : matrix R -> R) d_s :
  shaped B D x ->
  length directions = length hidden ->
  off_the_kinks act B D x hidden ->
  gradient_in_logits B (units last) loss (logits act B D x hidden last) d_s ->
  let g := gradients act B D x hidden last d_s in
  is_derive
    (fun t => loss (logits act B D (line B D x x' t)
                      (moved_all D hidden directions t) (moved (width D hidden) last of_last t)))
    0 (inner B D (fst g) x' + pairing D hidden last (snd g) directions of_last).
Proof.
  intros Sx Len OK Loss g.
  destruct (mlp_backward_is_vjp act B hidden last directions of_last D (line B D x x') x' Len (line_moves B D x x'))
    as [s' [Ms Vs]]; [now rewrite line_0|].
  specialize (Vs d_s). rewrite line_0 in Vs by auto. unfold g. rewrite <- Vs.
  apply Loss; [|exact Ms]. rewrite line_0 by auto. apply logits_moved_0.
Qed.
