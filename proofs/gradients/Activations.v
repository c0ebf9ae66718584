(* Derivatives of the activations: ReLU and leaky ReLU off 0 with our value at 0, identity, sigmoid, tanh, SiLU, GELU.

   Those that are not rational exist over the real numbers only; their forward and backward are the formulas of
   chainrule/activations.py (sigmoid and tanh keep their output, SiLU and GELU their input).
   `differentiates` is the hypothesis that the theorem on networks makes of an activation. *)
Require Import Reals Lra.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers gradients.MlpGradient.
Open Scope R_scope.

(* Functions that agree on one side of 0 have there the same derivative. *)
Lemma is_derive_positive (f g : R -> R) z d :
  0 < z -> (forall u, 0 < u -> f u = g u) -> is_derive g z d -> is_derive f z d.
Proof.
  intros P E. apply is_derive_ext_loc. exists (mkposreal z P). intros u Hu.
  apply Rabs_lt_between in Hu. unfold minus, plus, opp in Hu; simpl in Hu. symmetry; apply E; lra.
Qed.

Lemma is_derive_negative (f g : R -> R) z d :
  z < 0 -> (forall u, u < 0 -> f u = g u) -> is_derive g z d -> is_derive f z d.
Proof.
  intros P E. assert (Q : 0 < - z) by lra. apply is_derive_ext_loc. exists (mkposreal (- z) Q). intros u Hu.
  apply Rabs_lt_between in Hu. unfold minus, plus, opp in Hu; simpl in Hu. symmetry; apply E; lra.
Qed.

Lemma leaky_relu_positive a u : 0 < u -> fst (act_forward (leaky_relu a) u) = u.
Proof. intros P. simpl. destruct (Rle_dec u 0); [lra | reflexivity]. Qed.
Lemma leaky_relu_negative a u : u <= 0 -> fst (act_forward (leaky_relu a) u) = a * u.
Proof. intros P. simpl. destruct (Rle_dec u 0); [reflexivity | lra]. Qed.

(* Leaky ReLU with slope a > 0: derivative 1 for z > 0, a for z < 0; ours is a at 0. *)
Theorem leaky_relu_derivative a : 0 < a ->
  (forall z, 0 < z -> is_derive (fun u => fst (act_forward (leaky_relu a) u)) z 1)
  /\ (forall z, z < 0 -> is_derive (fun u => fst (act_forward (leaky_relu a) u)) z a)
  /\ (forall z g, act_backward (leaky_relu a) (snd (act_forward (leaky_relu a) z)) g
                   = if Rle_dec z 0 then a * g else g).
Proof.
  intros A. split; [|split].
  - intros z P. apply (is_derive_positive _ (fun u => u)); [auto | apply leaky_relu_positive|].
    apply (is_derive_id (K := R_AbsRing)).
  - intros z P. apply (is_derive_negative _ (fun u => a * u)); [auto | intros u U; apply leaky_relu_negative; lra|].
    apply (is_derive_ext (fun u => 0 + u * a)); [intros u; in_reals; ring | apply is_derive_line].
  - intros z g. simpl. destruct (Rle_dec z 0) as [L|G].
    + destruct (Rle_dec (a * z) 0) as [|N]; [reflexivity|]. exfalso. apply N.
      rewrite <- (Rmult_0_r a). apply Rmult_le_compat_l; lra.
    + destruct (Rle_dec z 0); [lra | reflexivity].
Qed.

Theorem leaky_relu_differentiates a z : 0 < a -> z <> 0 -> differentiates (leaky_relu a) z.
Proof.
  intros A N. destruct (leaky_relu_derivative a A) as [Pos [Neg Back]].
  destruct (Rlt_dec 0 z) as [P|P].
  - exists 1. split; [auto|]. intros g. rewrite Back. destruct (Rle_dec z 0); [lra | ring].
  - exists a. split; [apply Neg; lra|]. intros g. rewrite Back. destruct (Rle_dec z 0); [ring | lra].
Qed.

(* ReLU: derivative 1 for z > 0, 0 for z < 0; ours is 0 at 0. *)
Theorem relu_derivative :
  (forall z, 0 < z -> is_derive (fun u => fst (act_forward relu u)) z 1)
  /\ (forall z, z < 0 -> is_derive (fun u => fst (act_forward relu u)) z 0)
  /\ (forall z g, act_backward relu (snd (act_forward relu z)) g = if Rle_dec z 0 then 0 else g).
Proof.
  assert (Pos : forall u, 0 < u -> fst (act_forward relu u) = u).
  { intros u P. simpl. destruct (Rle_dec u 0); [lra | reflexivity]. }
  assert (Neg : forall u, u < 0 -> fst (act_forward relu u) = 0).
  { intros u P. simpl. destruct (Rle_dec u 0); [reflexivity | lra]. }
  split; [|split].
  - intros z P. apply (is_derive_positive _ (fun u => u)); [auto | auto |].
    apply (is_derive_id (K := R_AbsRing)).
  - intros z P. apply (is_derive_negative _ (fun _ => 0)); [auto | auto |].
    apply (is_derive_const (V := R_NormedModule)).
  - intros z g. simpl. destruct (Rle_dec z 0) as [L|G].
    + destruct (Rle_dec 0 0); [reflexivity | lra].
    + destruct (Rle_dec z 0); [lra | reflexivity].
Qed.

Theorem relu_differentiates z : z <> 0 -> differentiates relu z.
Proof.
  intros N. destruct relu_derivative as [Pos [Neg Back]].
  destruct (Rlt_dec 0 z) as [P|P].
  - exists 1. split; [auto|]. intros g. rewrite Back. destruct (Rle_dec z 0); [lra | ring].
  - exists 0. split; [apply Neg; lra|]. intros g. rewrite Back. destruct (Rle_dec z 0); [ring | lra].
Qed.

(* At 0 ReLU has no derivative, so a value there is a convention. *)
Theorem relu_not_derivable_at_0 : ~ ex_derive (fun u => fst (act_forward relu u)) 0.
Proof.
  intros [d Hd]. destruct relu_derivative as [Pos [Neg _]].
  apply is_derive_Reals in Hd. unfold derivable_pt_lim in Hd.
  destruct (Hd (1 / 2) ltac:(lra)) as [delta H]. set (h := delta / 2). assert (0 < delta) by apply cond_pos.
  assert (Vp : fst (act_forward relu (0 + h)) = h).
  { simpl. destruct (Rle_dec (0 + h) 0); unfold h in *; lra. }
  assert (Vn : fst (act_forward relu (0 + - h)) = 0).
  { simpl. destruct (Rle_dec (0 + - h) 0); unfold h in *; [reflexivity | lra]. }
  assert (V0 : fst (act_forward relu 0) = 0) by (simpl; destruct (Rle_dec 0 0); reflexivity).
  assert (Hp := H h ltac:(unfold h; lra) ltac:(unfold h; rewrite Rabs_pos_eq; lra)).
  assert (Hn := H (- h) ltac:(unfold h; lra) ltac:(unfold h; rewrite Rabs_Ropp, Rabs_pos_eq; lra)).
  change (Rabs ((fst (act_forward relu (0 + h)) - fst (act_forward relu 0)) / h - d) < 1 / 2) in Hp.
  change (Rabs ((fst (act_forward relu (0 + - h)) - fst (act_forward relu 0)) / - h - d) < 1 / 2) in Hn.
  rewrite Vp, V0 in Hp. rewrite Vn, V0 in Hn.
  replace ((h - 0) / h - d) with (1 - d) in Hp by (field; unfold h; lra).
  replace ((0 - 0) / - h - d) with (- d) in Hn by (field; unfold h; lra).
  apply Rabs_lt_between in Hp. apply Rabs_lt_between in Hn. lra.
Qed.

(* d id = 1 *)
Theorem identity_differentiates z : differentiates identity z.
Proof.
  exists 1. split; [apply (is_derive_id (K := R_AbsRing))|]. intros g. simpl. ring.
Qed.

(* sigma(z) = 1 / (1 + e^-z), and its backward d_h * (h * (1 - h)) *)
Definition sigma (z : R) : R := 1 / (1 + exp (- z)).
Definition sigmoid : activation R := {|
  act_forward z := (sigma z, sigma z);
  act_backward h d_h := d_h * (h * (1 - h)) |}.

(* sigma' = sigma (1 - sigma) *)
Theorem sigmoid_derivative z : is_derive sigma z (sigma z * (1 - sigma z)).
Proof.
  assert (P := exp_pos (- z)). unfold sigma. auto_derive; [lra|]. field. lra.
Qed.

Theorem sigmoid_differentiates z : differentiates sigmoid z.
Proof. exists (sigma z * (1 - sigma z)). split; [apply sigmoid_derivative | reflexivity]. Qed.

(* tanh z = (e^z - e^-z) / (e^z + e^-z), and its backward d_h * (1 - h * h) *)
Definition hyperbolic_tangent : activation R := {|
  act_forward z := (tanh z, tanh z);
  act_backward h d_h := d_h * (1 - h * h) |}.

Lemma tanh_quotient u : (exp u - exp (- u)) / (exp u + exp (- u)) = tanh u.
Proof.
  assert (P := exp_pos u). assert (Q := exp_pos (- u)). unfold tanh, sinh, cosh. field. lra.
Qed.

(* tanh' = 1 - tanh^2 *)
Theorem tanh_derivative z : is_derive tanh z (1 - tanh z * tanh z).
Proof.
  assert (P := exp_pos z). assert (Q := exp_pos (- z)).
  apply (is_derive_ext (fun u => (exp u - exp (- u)) / (exp u + exp (- u)))); [exact tanh_quotient|].
  rewrite <- tanh_quotient. auto_derive; [lra|]. field. lra.
Qed.

Theorem tanh_differentiates z : differentiates hyperbolic_tangent z.
Proof. exists (1 - tanh z * tanh z). split; [apply tanh_derivative | reflexivity]. Qed.

(* z sigma(z), and its backward d_h * (s * (1 + z (1 - s))) with s = sigma(z); kept is z *)
Definition silu : activation R := {|
  act_forward z := (z * sigma z, z);
  act_backward z d_h := let s := sigma z in d_h * (s * (1 + z * (1 - s))) |}.

(* (z sigma(z))' = sigma(z) (1 + z (1 - sigma(z))) *)
Theorem silu_derivative z : is_derive (fun u => u * sigma u) z (sigma z * (1 + z * (1 - sigma z))).
Proof.
  replace (sigma z * (1 + z * (1 - sigma z))) with (plus (mult 1 (sigma z)) (mult z (sigma z * (1 - sigma z)))).
  2:{ unfold plus, mult; simpl. ring. }
  apply (is_derive_mult (fun u => u) sigma); [apply (is_derive_id (K := R_AbsRing)) | apply sigmoid_derivative|].
  intros; apply Rmult_comm.
Qed.

Theorem silu_differentiates z : differentiates silu z.
Proof. exists (sigma z * (1 + z * (1 - sigma z))). split; [apply silu_derivative | reflexivity]. Qed.

(* erf(x) = 2/sqrt(pi) times the integral of e^(-u^2) from 0 to x;  Phi(z) = (1 + erf(z / sqrt 2)) / 2 *)
Definition erf (x : R) : R := 2 / sqrt PI * RInt (fun u => exp (- (u * u))) 0 x.
Definition normal_cdf (z : R) : R := (1 + erf (z / sqrt 2)) / 2.
Definition normal_density (z : R) : R := exp (- (z * z) / 2) / (sqrt 2 * sqrt PI).

(* z Phi(z), and its backward d_h * (Phi(z) + z phi(z)); kept is z *)
Definition gelu : activation R := {|
  act_forward z := (z * normal_cdf z, z);
  act_backward z d_h := d_h * (normal_cdf z + z * normal_density z) |}.

Lemma erf_derivative x : is_derive erf x (2 / sqrt PI * exp (- (x * x))).
Proof.
  apply (is_derive_scal (fun x => RInt (fun u => exp (- (u * u))) 0 x)).
  assert (Cont : forall u, continuous (fun u => exp (- (u * u))) u).
  { intros u. apply (ex_derive_continuous (fun u => exp (- (u * u)))). auto_derive; auto. }
  apply (is_derive_RInt (fun u => exp (- (u * u))) _ 0); [|apply Cont].
  apply filter_forall. intros b. apply (RInt_correct (V := R_CompleteNormedModule)).
  apply (ex_RInt_continuous (V := R_CompleteNormedModule)). intros; apply Cont.
Qed.

(* Phi' = phi *)
Lemma normal_cdf_derivative z : is_derive normal_cdf z (normal_density z).
Proof.
  assert (S2 : 0 < sqrt 2) by (apply sqrt_lt_R0; lra). assert (SP : 0 < sqrt PI) by (apply sqrt_lt_R0, PI_RGT_0).
  assert (D : is_derive (fun z => / 2 * (1 + erf (z / sqrt 2))) z
                (/ 2 * (0 + (1 / sqrt 2) * (2 / sqrt PI * exp (- (z / sqrt 2 * (z / sqrt 2))))))).
  { apply (is_derive_scal (fun z => 1 + erf (z / sqrt 2))).
    apply (is_derive_plus (fun _ => 1) (fun z => erf (z / sqrt 2))); [apply (is_derive_const (V := R_NormedModule))|].
    apply (is_derive_comp erf (fun z => z / sqrt 2)); [apply erf_derivative|]. auto_derive; [lra | field; lra]. }
  apply (is_derive_ext (fun z => / 2 * (1 + erf (z / sqrt 2)))).
  { intros u. in_reals. unfold normal_cdf. field. }
  replace (normal_density z) with (/ 2 * (0 + (1 / sqrt 2) * (2 / sqrt PI * exp (- (z / sqrt 2 * (z / sqrt 2))))));
    [exact D|].
  replace (- (z / sqrt 2 * (z / sqrt 2))) with (- (z * z) / 2).
  - unfold normal_density. field. lra.
  - replace 2 with (sqrt 2 * sqrt 2) at 1 by (apply sqrt_sqrt; lra). field. lra.
Qed.

(* (z Phi(z))' = Phi(z) + z phi(z) *)
Theorem gelu_derivative z : is_derive (fun u => u * normal_cdf u) z (normal_cdf z + z * normal_density z).
Proof.
  replace (normal_cdf z + z * normal_density z) with (plus (mult 1 (normal_cdf z)) (mult z (normal_density z))).
  2:{ unfold plus, mult; simpl. ring. }
  apply (is_derive_mult (fun u => u) normal_cdf); [apply (is_derive_id (K := R_AbsRing))| |intros; apply Rmult_comm].
  apply normal_cdf_derivative.
Qed.

Theorem gelu_differentiates z : differentiates gelu z.
Proof. exists (normal_cdf z + z * normal_density z). split; [apply gelu_derivative | reflexivity]. Qed.
