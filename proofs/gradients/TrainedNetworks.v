(* The theorem for the networks that the package trains: each activation of chainrule, any depth and widths, and the
   mean over a batch of softmax cross-entropy with label smoothing and penalty. What it says of executed gradients.

   Activations without a kink need no hypothesis; ReLU and leaky ReLU need that no hidden pre-activation is 0. *)
Require Import Reals QArith Qreals Lra Lia List.
From Coquelicot Require Import Coquelicot.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers gradients.Dense
  gradients.MlpGradient gradients.Activations gradients.CrossEntropy gradients.PartialDerivatives
  gradients.RationalNumbers.
Open Scope R_scope.

(* lean_mnist.chainrule.activations.ACTIVATIONS; the slope of the leaky ReLU is 0.01. *)
Inductive name := Relu | LeakyRelu | Sigmoid | Tanh | Gelu | Silu | Identity.
Definition activation_named (n : name) : activation R :=
  match n with
  | Relu => relu
  | LeakyRelu => leaky_relu (1 / 100)
  | Sigmoid => sigmoid
  | Tanh => hyperbolic_tangent
  | Gelu => gelu
  | Silu => silu
  | Identity => identity
  end.
Definition has_kink (n : name) : Prop := n = Relu \/ n = LeakyRelu.

Lemma activation_differentiates n z : (has_kink n -> z <> 0) -> differentiates (activation_named n) z.
Proof.
  intros N. destruct n; simpl.
  - apply relu_differentiates, N. now left.
  - apply leaky_relu_differentiates; [lra | apply N; now right].
  - apply sigmoid_differentiates.
  - apply tanh_differentiates.
  - apply gelu_differentiates.
  - apply silu_differentiates.
  - apply identity_differentiates.
Qed.

(* No pre-activation of a hidden layer, on any example of the batch, is 0. *)
Fixpoint no_pre_activation_is_0 (act : activation R) (B D : nat) (x : matrix R) (hidden : list (layer R)) : Prop :=
  match hidden with
  | [] => True
  | l :: above =>
    (forall b j, (b < B)%nat -> (j < units l)%nat -> entry (dense_forward B D x l) b j <> 0)
    /\ no_pre_activation_is_0 act B (units l) (activate act B (units l) (dense_forward B D x l)) above
  end.

Lemma network_off_the_kinks n B : forall hidden D x,
  (has_kink n -> no_pre_activation_is_0 (activation_named n) B D x hidden) ->
  off_the_kinks (activation_named n) B D x hidden.
Proof.
  induction hidden as [|l above IH]; intros D x N; [exact I|]. split.
  - intros b j Hb Hj. apply activation_differentiates. intros K. destruct (N K) as [Z _]. now apply Z.
  - apply IH. intros K. now destruct (N K).
Qed.

(* For every network and batch: the derivative of the mean loss along any direction in all weights, biases and the input
   is <what the manual backward returns, direction>. *)
Theorem trained_gradient_is_derivative n B D x x' hidden last directions of_last smoothing penalty labels :
  (0 < units last)%nat -> shaped B D x -> length directions = length hidden ->
  (has_kink n -> no_pre_activation_is_0 (activation_named n) B D x hidden) ->
  let act := activation_named n in
  let s := logits act B D x hidden last in
  let d_s := cross_entropy_backward smoothing penalty B (units last) labels s (mean_backward B) in
  let g := gradients act B D x hidden last d_s in
  is_derive
    (fun t => mean_loss smoothing penalty B (units last) labels
      (logits act B D (line B D x x' t) (moved_all D hidden directions t) (moved (width D hidden) last of_last t)))
    0 (inner B D (fst g) x' + pairing D hidden last (snd g) directions of_last).
Proof.
  intros P Sx Len N. apply mean_cross_entropy_backward_is_derivative; auto. now apply network_off_the_kinks.
Qed.

(* ... and entry by entry: dloss / dW_k[j, i] is the entry (j, i) of the gradient of the k-th weight. *)
Theorem trained_weight_gradient n B D x hidden last smoothing penalty labels k j i :
  (0 < units last)%nat -> shaped B D x ->
  (has_kink n -> no_pre_activation_is_0 (activation_named n) B D x hidden) ->
  (k <= length hidden)%nat -> (j < units (layer_at hidden last k))%nat -> (i < features_at D hidden k)%nat ->
  let act := activation_named n in
  let s := logits act B D x hidden last in
  let d_s := cross_entropy_backward smoothing penalty B (units last) labels s (mean_backward B) in
  let g := gradients act B D x hidden last d_s in
  is_derive
    (loss_of_layer act B D x hidden last (mean_loss smoothing penalty B (units last) labels) k
      (unit_matrix (units (layer_at hidden last k)) (features_at D hidden k) j i, []))
    0 (entry (fst (nth k (snd g) ([], None))) j i).
Proof.
  intros P Sx N K J I. apply weight_gradient_is_partial_derivative; auto.
  - now apply network_off_the_kinks.
  - now apply mean_loss_gradient_in_logits.
Qed.

(* Where parameters, input and the gradient d_s of the logits are fractions, the fractions that Network.v computes of
   them are the derivative of every loss that has this gradient at these logits: what the oracle prints is the truth. *)
Theorem executed_gradient_is_derivative B D (x : matrix Q) x' (hidden : list (layer Q)) (last : layer Q)
    directions of_last (loss : matrix R -> R) (d_s : matrix Q) :
  let xR := map_matrix Q2R x in
  let hiddenR := map (map_layer Q2R) hidden in
  let lastR := map_layer Q2R last in
  shaped B D xR -> length directions = length hidden -> no_pre_activation_is_0 relu B D xR hiddenR ->
  gradient_in_logits B (units last) loss (map_matrix Q2R (logits relu B D x hidden last)) (map_matrix Q2R d_s) ->
  let g := gradients relu B D x hidden last d_s in
  is_derive
    (fun t => loss (logits relu B D (line B D xR x' t)
                      (moved_all D hiddenR directions t) (moved (width D hiddenR) lastR of_last t)))
    0 (inner B D (map_matrix Q2R (fst g)) x'
       + pairing D hiddenR lastR (map (map_gradient Q2R) (snd g)) directions of_last).
Proof.
  intros xR hiddenR lastR Sx Len N Loss g.
  destruct (executed_gradients_are_exact relu relu B D x hidden last d_s ltac:(now left)) as [L G].
  assert (M := backward_is_derivative relu B D xR x' hiddenR lastR directions of_last loss (map_matrix Q2R d_s) Sx).
  cbv zeta in M. unfold xR, hiddenR, lastR in *. rewrite G in M. apply M.
  - now rewrite map_length.
  - apply (network_off_the_kinks Relu). auto.
  - rewrite L. exact Loss.
Qed.
