(* A quantised network of two layers without biases, in whole numbers, as its definition reads.

   A weight is shift + scale * code, with one shift and one scale a layer. Between the layers stands ReLU; the class is
   the smallest index of a largest logit. Shifts and scales are float16, hence whole numbers of 2^-24, and features are
   pixel / d. The theorem at the end says that neither unit matters: real arithmetic on these weights and features gives
   the same class as whole numbers, because ReLU and the largest logit do not see a positive factor. *)
From Coq Require Import ZArith List Reals Lia Lra.
Import ListNotations.
Open Scope Z_scope.

Record network := {
  shift1 : Z; scale1 : Z; codes1 : list (list Z);  (* first layer: a row of codes for each hidden unit *)
  shift2 : Z; scale2 : Z; codes2 : list (list Z) }.  (* second layer: a row for each class *)

Definition example : Type := list Z * Z.  (* pixels, row by row, and the label *)

Fixpoint dot (weights inputs : list Z) : Z :=
  match weights, inputs with w :: ws, x :: xs => w * x + dot ws xs | _, _ => 0 end.
Definition layer (shift scale : Z) (codes : list (list Z)) (inputs : list Z) : list Z :=
  map (fun row => dot (map (fun code => shift + scale * code) row) inputs) codes.
Definition relu (z : Z) : Z := Z.max 0 z.
Definition logits (n : network) (pixels : list Z) : list Z :=
  layer (shift2 n) (scale2 n) (codes2 n) (map relu (layer (shift1 n) (scale1 n) (codes1 n) pixels)).

Definition largest (zs : list Z) : Z := match zs with [] => 0 | z :: r => fold_left Z.max r z end.
Fixpoint position (wanted : Z) (zs : list Z) : Z :=
  match zs with [] => 0 | z :: r => if z =? wanted then 0 else 1 + position wanted r end.
Definition predicted (n : network) (pixels : list Z) : Z :=
  let zs := logits n pixels in position (largest zs) zs.

Definition wrong (n : network) (e : example) : bool := negb (predicted n (fst e) =? snd e).

(* The same network in real arithmetic: weights in units of u, features pixel / d. *)
Section RealArithmetic.
Open Scope R_scope.
Variables u d : R.
Hypotheses (u_positive : 0 < u) (d_positive : 0 < d).

Fixpoint real_dot (weights inputs : list R) : R :=
  match weights, inputs with w :: ws, x :: xs => w * x + real_dot ws xs | _, _ => 0 end.
Definition real_layer (shift scale : Z) (codes : list (list Z)) (inputs : list R) : list R :=
  map (fun row => real_dot (map (fun code => IZR shift * u + IZR scale * u * IZR code) row) inputs) codes.
Definition real_logits (n : network) (pixels : list Z) : list R :=
  real_layer (shift2 n) (scale2 n) (codes2 n)
    (map (Rmax 0) (real_layer (shift1 n) (scale1 n) (codes1 n) (map (fun pixel => IZR pixel / d) pixels))).
Definition real_largest (zs : list R) : R := match zs with [] => 0 | z :: r => fold_left Rmax r z end.
Fixpoint real_position (wanted : R) (zs : list R) : Z :=
  match zs with [] => 0 | z :: r => if Req_EM_T z wanted then 0 else 1 + real_position wanted r end%Z.
Definition real_predicted (n : network) (pixels : list Z) : Z :=
  let zs := real_logits n pixels in real_position (real_largest zs) zs.

Definition scaled (c : R) (zs : list Z) : list R := map (fun z => c * IZR z) zs.

Lemma real_layer_scaled shift scale codes inputs c :
  real_layer shift scale codes (scaled c inputs) = scaled (u * c) (layer shift scale codes inputs).
Proof.
  unfold real_layer, layer, scaled. rewrite map_map. apply map_ext. intros row. revert inputs.
  induction row as [|code row IH]; intros [|x inputs]; cbn [map dot real_dot]; try ring.
  rewrite IH, plus_IZR, !mult_IZR, plus_IZR, mult_IZR. ring.
Qed.

Lemma scaled_relu c zs : 0 < c -> map (Rmax 0) (scaled c zs) = scaled c (map relu zs).
Proof.
  intros Hc. unfold scaled. rewrite !map_map. apply map_ext. intros z. unfold relu.
  destruct (Z.max_spec 0 z) as [[H ->]|[H ->]].
  - apply IZR_lt in H. apply Rmax_right, Rmult_le_pos; lra.
  - apply IZR_le in H. rewrite Rmult_0_r. apply Rmax_left. rewrite <- (Rmult_0_r c).
    apply Rmult_le_compat_l; lra.
Qed.

Lemma scaled_largest c zs : 0 < c -> real_largest (scaled c zs) = c * IZR (largest zs).
Proof.
  intros Hc. destruct zs as [|z zs]; cbn [scaled map real_largest largest]; [ring|].
  revert z. induction zs as [|y zs IH]; intros z; cbn [map fold_left]; [reflexivity|].
  rewrite <- IH. f_equal. destruct (Z.max_spec z y) as [[H ->]|[H ->]].
  - apply Rmax_right, Rmult_le_compat_l; [lra | apply IZR_le; lia].
  - apply Rmax_left, Rmult_le_compat_l; [lra | apply IZR_le; lia].
Qed.

Lemma scaled_position c wanted zs : 0 < c -> real_position (c * IZR wanted) (scaled c zs) = position wanted zs.
Proof.
  intros Hc. induction zs as [|z zs IH]; [reflexivity|]. cbn [scaled map real_position position].
  unfold scaled in IH. rewrite IH. destruct (Z.eqb_spec z wanted) as [->|H]; destruct (Req_EM_T _ _) as [E|E]; try easy.
  apply Rmult_eq_reg_l in E; [now apply eq_IZR in E | lra].
Qed.

(* For all networks and pixels: the class in real arithmetic is the class in whole numbers. *)
Theorem real_predicted_is_predicted n pixels : real_predicted n pixels = predicted n pixels.
Proof.
  unfold real_predicted, predicted, real_logits.
  replace (map (fun pixel => IZR pixel / d) pixels) with (scaled (/ d) pixels)
    by (apply map_ext; intros; unfold Rdiv; ring).
  assert (0 < / d) by now apply Rinv_0_lt_compat.
  rewrite real_layer_scaled, scaled_relu by now apply Rmult_lt_0_compat.
  rewrite real_layer_scaled. fold (logits n pixels).
  assert (0 < u * (u * / d)) by (repeat apply Rmult_lt_0_compat; assumption).
  rewrite scaled_largest by assumption. now apply scaled_position.
Qed.
End RealArithmetic.
