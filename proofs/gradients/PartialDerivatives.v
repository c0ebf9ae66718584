(* Entry by entry: what the manual backward returns is the partial derivative of the loss by that weight, that bias or
   that input, all others held where they are.

   These are the directions of one entry in `backward_is_derivative`. A direction without entries, [], moves nothing. *)
Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers gradients.Dense
  gradients.MlpGradient.
Open Scope R_scope.

Definition still : direction := ([], []).
Definition unit_vector (n j : nat) : vector R := tabulate n (fun a => onehot j a).
Definition unit_matrix (r c j i : nat) : matrix R := build r c (fun a b => onehot j a * onehot i b).

Lemma entry_still a b : entry ([] : matrix R) a b = 0.
Proof. unfold entry, item. destruct a, b; reflexivity. Qed.

Lemma inner_still r c g : inner r c g [] = 0.
Proof.
  unfold inner. rewrite <- (sum_zero r). apply sum_ext. intros a _. rewrite <- (sum_zero c). apply sum_ext. intros b _.
  rewrite entry_still. ring.
Qed.

Lemma dot_still n g : dot n g [] = 0.
Proof. unfold dot. rewrite <- (sum_zero n). apply sum_ext. intros a _. unfold item. destruct a; simpl; ring. Qed.

Lemma layer_pairing_still H D g : layer_pairing H D g still = 0.
Proof. unfold layer_pairing. simpl. rewrite inner_still. destruct (snd g); rewrite ?dot_still; ring. Qed.

Lemma dot_unit n g j : (j < n)%nat -> dot n g (unit_vector n j) = item g j.
Proof.
  intros J. unfold dot. rewrite <- (sum_onehot n j (item g) J). apply sum_ext. intros a Ha. unfold unit_vector.
  rewrite item_tabulate by auto. ring.
Qed.

Lemma inner_unit r c g j i : (j < r)%nat -> (i < c)%nat -> inner r c g (unit_matrix r c j i) = entry g j i.
Proof.
  intros J I. unfold inner.
  rewrite <- (sum_onehot r j (fun a => entry g a i) J). apply sum_ext. intros a Ha.
  rewrite <- (sum_onehot c i (fun b => entry g a b) I), <- sum_scal. apply sum_ext. intros b Hb. unfold unit_matrix.
  rewrite entry_build by auto. ring.
Qed.

(* The directions in which layer k alone moves, along v. *)
Fixpoint only (hidden : list (layer R)) (k : nat) (v : direction) : list direction * direction :=
  match hidden, k with
  | [], _ => ([], v)
  | _ :: above, O => (v :: map (fun _ => still) above, still)
  | _ :: above, S k' => let r := only above k' v in (still :: fst r, snd r)
  end.

Lemma only_length hidden : forall k v, length (fst (only hidden k v)) = length hidden.
Proof.
  induction hidden as [|l above IH]; intros [|k] v; simpl; auto. now rewrite map_length.
Qed.

Lemma pairing_still : forall hidden last D g, pairing D hidden last g (map (fun _ => still) hidden) still = 0.
Proof.
  induction hidden as [|l above IH]; intros last D [|g others]; simpl; auto using layer_pairing_still.
  rewrite layer_pairing_still, IH. ring.
Qed.

(* The k-th of all layers, counted from 0, and how many features it is given. *)
Definition layer_at (hidden : list (layer R)) (last : layer R) (k : nat) : layer R := nth k (hidden ++ [last]) last.
Definition features_at (D : nat) (hidden : list (layer R)) (k : nat) : nat := width D (firstn k hidden).

Lemma pairing_only : forall hidden last D g k v, length g = S (length hidden) -> (k <= length hidden)%nat ->
  pairing D hidden last g (fst (only hidden k v)) (snd (only hidden k v))
  = layer_pairing (units (layer_at hidden last k)) (features_at D hidden k) (nth k g ([], None)) v.
Proof.
  induction hidden as [|l above IH]; intros last D [|g others] k v Len K; try discriminate.
  - destruct k; [reflexivity | simpl in K; lia].
  - injection Len as Len. destruct k as [|k].
    + simpl. rewrite pairing_still. unfold layer_at, features_at. simpl. ring.
    + simpl in K. specialize (IH last (units l) others k v Len ltac:(lia)). simpl. rewrite layer_pairing_still, IH.
      unfold layer_at, features_at. simpl. ring.
Qed.

Lemma gradients_length act B : forall hidden last D x d_s,
  length (snd (gradients act B D x hidden last d_s)) = S (length hidden).
Proof.
  induction hidden as [|l above IH]; intros last D x d_s; [reflexivity|].
  unfold gradients in *. simpl. f_equal. apply IH.
Qed.

Lemma dense_forward_still B D x l t : dense_forward B D x (moved D l still t) = dense_forward B D x l.
Proof.
  unfold dense_forward. simpl units. apply build_ext. intros b j Hb Hj.
  rewrite (sum_ext D _ (fun i => mul (entry x b i) (entry (weight l) j i))).
  2:{ intros i Hi. simpl. unfold line. rewrite entry_build, entry_still by auto. real. ring. }
  simpl. destruct (bias l); [|reflexivity]. simpl. unfold vector_line. rewrite item_tabulate by auto.
  unfold item at 2. destruct j; real; simpl; ring.
Qed.

Lemma logits_still act B t : forall hidden last D x,
  logits act B D x (moved_all D hidden (map (fun _ => still) hidden) t) (moved (width D hidden) last still t)
  = logits act B D x hidden last.
Proof.
  induction hidden as [|l above IH]; intros last D x; [apply dense_forward_still|].
  unfold logits in *. simpl. rewrite dense_forward_still. apply IH.
Qed.

Section Network.
  Context (act : activation R) (B D : nat) (x : matrix R) (hidden : list (layer R)) (last : layer R).
  Context (loss : matrix R -> R) (d_s : matrix R).
  Context (Shaped : shaped B D x) (Off : off_the_kinks act B D x hidden).
  Context (Loss : gradient_in_logits B (units last) loss (logits act B D x hidden last) d_s).

  Let g := gradients act B D x hidden last d_s.

  (* The loss when layer k alone moves by t along v. *)
  Definition loss_of_layer (k : nat) (v : direction) (t : R) : R :=
    loss (logits act B D x (moved_all D hidden (fst (only hidden k v)) t)
                 (moved (width D hidden) last (snd (only hidden k v)) t)).
  (* The loss when the input alone moves by t along x'. *)
  Definition loss_of_input (x' : matrix R) (t : R) : R := loss (logits act B D (line B D x x' t) hidden last).

  Lemma line_still t : line B D x [] t = x.
  Proof.
    rewrite <- (build_entry B D x Shaped) at 2. apply build_ext. intros b i _ _. rewrite entry_still. ring.
  Qed.

  Lemma layer_derivative k v : (k <= length hidden)%nat ->
    is_derive (loss_of_layer k v) 0
      (layer_pairing (units (layer_at hidden last k)) (features_at D hidden k) (nth k (snd g) ([], None)) v).
  Proof.
    intros K.
    assert (M := backward_is_derivative act B D x [] hidden last (fst (only hidden k v)) (snd (only hidden k v))
                   loss d_s Shaped (only_length hidden k v) Off Loss). cbv zeta in M. fold g in M.
    rewrite inner_still, Rplus_0_l, pairing_only in M; [|apply gradients_length | exact K].
    revert M. apply is_derive_ext. intros t. unfold loss_of_layer. now rewrite line_still.
  Qed.

  (* dloss / dW_k[j, i] is the entry (j, i) of the k-th weight's gradient. *)
  Theorem weight_gradient_is_partial_derivative k j i : (k <= length hidden)%nat ->
    (j < units (layer_at hidden last k))%nat -> (i < features_at D hidden k)%nat ->
    is_derive (loss_of_layer k (unit_matrix (units (layer_at hidden last k)) (features_at D hidden k) j i, [])) 0
      (entry (fst (nth k (snd g) ([], None))) j i).
  Proof.
    intros K J I. assert (M := layer_derivative k
      (unit_matrix (units (layer_at hidden last k)) (features_at D hidden k) j i, []) K).
    unfold layer_pairing in M. simpl fst in M. simpl snd in M. rewrite inner_unit in M by auto.
    destruct (snd (nth k (snd g) ([], None))); rewrite ?dot_still, Rplus_0_r in M; exact M.
  Qed.

  (* dloss / db_k[j] is the entry j of the k-th bias's gradient. *)
  Theorem bias_gradient_is_partial_derivative k j d_b : (k <= length hidden)%nat ->
    (j < units (layer_at hidden last k))%nat -> snd (nth k (snd g) ([], None)) = Some d_b ->
    is_derive (loss_of_layer k ([], unit_vector (units (layer_at hidden last k)) j)) 0 (item d_b j).
  Proof.
    intros K J E. assert (M := layer_derivative k ([], unit_vector (units (layer_at hidden last k)) j) K).
    unfold layer_pairing in M. simpl fst in M. simpl snd in M. rewrite inner_still, E, dot_unit, Rplus_0_l in M by auto.
    exact M.
  Qed.

  (* dloss / dx[b, i] is the entry (b, i) of the input's gradient. *)
  Theorem input_gradient_is_partial_derivative b i : (b < B)%nat -> (i < D)%nat ->
    is_derive (loss_of_input (unit_matrix B D b i)) 0 (entry (fst g) b i).
  Proof.
    intros Hb Hi.
    assert (M := backward_is_derivative act B D x (unit_matrix B D b i) hidden last (map (fun _ => still) hidden) still
                   loss d_s Shaped (map_length _ _) Off Loss). cbv zeta in M. fold g in M.
    rewrite inner_unit, pairing_still, Rplus_0_r in M by auto.
    revert M. apply is_derive_ext. intros t. unfold loss_of_input. now rewrite logits_still.
  Qed.
End Network.
