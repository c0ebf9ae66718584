(* The rational numbers as `Numbers`, and that executing a network over them computes its real gradient exactly.

   `executed_gradients_are_exact`: with ReLU, leaky ReLU or no activation, and rational parameters, input and gradient
   of the logits, the fractions that forward and backward return are the real numbers that they return. It holds of any
   map between numbers that preserves the operations and the sign: `preserves`. *)
Require Import Reals QArith Qreals Lra Lia List.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers.

#[global] Instance rational_numbers : Numbers Q := {|
  zero := 0%Q; one := 1%Q;
  add x y := Qred (x + y); sub x y := Qred (x - y); mul x y := Qred (x * y);
  nonpositive x := Qle_bool x 0 |}.

Section Preserved.
  Context {T U : Type} `{Numbers T} `{Numbers U} (f : T -> U).

  Class preserves : Prop := {
    f_zero : f zero = zero;
    f_one : f one = one;
    f_add : forall x y, f (add x y) = add (f x) (f y);
    f_sub : forall x y, f (sub x y) = sub (f x) (f y);
    f_mul : forall x y, f (mul x y) = mul (f x) (f y);
    f_nonpositive : forall x, nonpositive (f x) = nonpositive x }.

  Context `{preserves}.

  Definition map_matrix (m : matrix T) : matrix U := map (map f) m.
  Definition map_layer (l : layer T) : layer U := {|
    units := units l; weight := map_matrix (weight l); bias := option_map (map f) (bias l) |}.
  Definition map_gradient (g : matrix T * option (vector T)) := (map_matrix (fst g), option_map (map f) (snd g)).

  (* The activations a over T and b over U are the same formulas. *)
  Definition same_activation (a : activation T) (b : activation U) : Prop :=
    (forall z, act_forward b (f z) = (f (fst (act_forward a z)), f (snd (act_forward a z))))
    /\ (forall s d, act_backward b (f s) (f d) = f (act_backward a s d)).

  Lemma item_map v i : item (map f v) i = f (item v i).
  Proof. unfold item. rewrite <- f_zero. apply map_nth. Qed.

  Lemma entry_map m i j : entry (map_matrix m) i j = f (entry m i j).
  Proof. unfold entry, map_matrix. change (@nil U) with (map f []). rewrite map_nth. apply item_map. Qed.

  Lemma sum_map n g : f (sum n g) = sum n (fun i => f (g i)).
  Proof. induction n as [|n IH]; simpl; [apply f_zero|]. now rewrite f_add, IH. Qed.

  Lemma tabulate_map n g : map f (tabulate n g) = tabulate n (fun i => f (g i)).
  Proof. apply map_map. Qed.

  Lemma build_map r c g : map_matrix (build r c g) = build r c (fun i j => f (g i j)).
  Proof. unfold map_matrix, build. rewrite map_map. apply map_ext. intros i. apply tabulate_map. Qed.

  Lemma dense_forward_map B D x l :
    dense_forward B D (map_matrix x) (map_layer l) = map_matrix (dense_forward B D x l).
  Proof.
    unfold dense_forward. rewrite build_map. apply build_ext. intros b j _ _.
    assert (S : sum D (fun i => mul (entry (map_matrix x) b i) (entry (weight (map_layer l)) j i))
              = f (sum D (fun i => mul (entry x b i) (entry (weight l) j i)))).
    { rewrite sum_map. apply sum_ext. intros i _. simpl. now rewrite !entry_map, f_mul. }
    rewrite S. simpl. destruct (bias l); [|reflexivity]. simpl. now rewrite f_add, item_map.
  Qed.

  Lemma dense_backward_map B D x l d_z :
    let g := dense_backward B D x l d_z in
    let h := dense_backward B D (map_matrix x) (map_layer l) (map_matrix d_z) in
    d_x h = map_matrix (d_x g) /\ (d_weight h, d_bias h) = map_gradient (d_weight g, d_bias g).
  Proof.
    split; [|unfold map_gradient; f_equal]; simpl.
    - rewrite build_map. apply build_ext. intros b i _ _. rewrite sum_map. apply sum_ext. intros j _.
      now rewrite !entry_map, f_mul.
    - rewrite build_map. apply build_ext. intros j i _ _. rewrite sum_map. apply sum_ext. intros b _.
      now rewrite !entry_map, f_mul.
    - destruct (bias l); [|reflexivity]. simpl. rewrite tabulate_map. f_equal. apply tabulate_ext. intros j _.
      rewrite sum_map. apply sum_ext. intros b _. apply entry_map.
  Qed.

  Section Activation.
    Context (a : activation T) (b : activation U) (Same : same_activation a b).

    Lemma activate_map B D z : activate b B D (map_matrix z) = map_matrix (activate a B D z).
    Proof.
      unfold activate. rewrite build_map. apply build_ext. intros i j _ _. rewrite entry_map.
      now rewrite (proj1 Same).
    Qed.

    Lemma kept_map B D z : kept b B D (map_matrix z) = map_matrix (kept a B D z).
    Proof.
      unfold kept. rewrite build_map. apply build_ext. intros i j _ _. rewrite entry_map.
      now rewrite (proj1 Same).
    Qed.

    Lemma activate_backward_map B D s d :
      activate_backward b B D (map_matrix s) (map_matrix d) = map_matrix (activate_backward a B D s d).
    Proof.
      unfold activate_backward. rewrite build_map. apply build_ext. intros i j _ _. rewrite !entry_map.
      apply (proj2 Same).
    Qed.

    Theorem logits_are_exact B : forall hidden last D x,
      logits b B D (map_matrix x) (map map_layer hidden) (map_layer last)
      = map_matrix (logits a B D x hidden last).
    Proof.
      induction hidden as [|l above IH]; intros last D x; [apply dense_forward_map|].
      unfold logits in *. simpl. now rewrite dense_forward_map, activate_map, IH.
    Qed.

    Theorem gradients_are_exact B : forall hidden last D x d_s,
      let g := gradients a B D x hidden last d_s in
      gradients b B D (map_matrix x) (map map_layer hidden) (map_layer last) (map_matrix d_s)
      = (map_matrix (fst g), map map_gradient (snd g)).
    Proof.
      induction hidden as [|l above IH]; intros last D x d_s g.
      - destruct (dense_backward_map B D x last d_s) as [X W]. unfold g, gradients. simpl fst in *. simpl snd in *.
        simpl in X, W |- *. now rewrite X, W.
      - specialize (IH last (units l) (activate a B (units l) (dense_forward B D x l)) d_s).
        unfold g, gradients in *. simpl. rewrite dense_forward_map, activate_map, kept_map.
        simpl in IH. rewrite IH. simpl. rewrite activate_backward_map.
        match goal with |- context [activate_backward a B (units l) ?s ?d] =>
          destruct (dense_backward_map B D x l (activate_backward a B (units l) s d)) as [X W] end.
        simpl in X, W. now rewrite X, W.
    Qed.
  End Activation.

  Lemma same_relu : same_activation relu relu.
  Proof.
    split; intros; simpl; rewrite f_nonpositive.
    - destruct (nonpositive z); now rewrite ?f_zero.
    - destruct (nonpositive s); now rewrite ?f_zero.
  Qed.

  Lemma same_leaky_relu slope : same_activation (leaky_relu slope) (leaky_relu (f slope)).
  Proof.
    split; intros; simpl; rewrite f_nonpositive.
    - destruct (nonpositive z); now rewrite ?f_mul.
    - destruct (nonpositive s); now rewrite ?f_mul.
  Qed.

  Lemma same_identity : same_activation identity identity.
  Proof. now split. Qed.
End Preserved.

Lemma Q2R_Qred q : Q2R (Qred q) = Q2R q.
Proof. apply Qeq_eqR, Qred_correct. Qed.

#[global] Instance Q2R_preserves : preserves Q2R.
Proof.
  assert (Q0 : Q2R 0 = 0%R) by (unfold Q2R; simpl; lra).
  split; intros.
  - exact Q0.
  - unfold Q2R; simpl. lra.
  - exact (eq_trans (Q2R_Qred _) (Q2R_plus x y)).
  - exact (eq_trans (Q2R_Qred _) (Q2R_minus x y)).
  - exact (eq_trans (Q2R_Qred _) (Q2R_mult x y)).
  - simpl. rewrite <- Q0.
    destruct (Rle_dec (Q2R x) (Q2R 0)) as [L|L], (Qle_bool x 0) eqn:E; try reflexivity.
    + apply Rle_Qle, Qle_bool_iff in L. congruence.
    + apply Qle_bool_iff, Qle_Rle in E. contradiction.
Qed.

(* The gradients computed over the rational numbers are those over the real numbers, for the rational activations. *)
Theorem executed_gradients_are_exact (a : activation Q) (b : activation R) B D x hidden last d_s :
  (a = relu /\ b = relu) \/ (exists slope, a = leaky_relu slope /\ b = leaky_relu (Q2R slope))
    \/ (a = identity /\ b = identity) ->
  let g := gradients a B D x hidden last d_s in
  logits b B D (map_matrix Q2R x) (map (map_layer Q2R) hidden) (map_layer Q2R last)
  = map_matrix Q2R (logits a B D x hidden last)
  /\ gradients b B D (map_matrix Q2R x) (map (map_layer Q2R) hidden) (map_layer Q2R last) (map_matrix Q2R d_s)
     = (map_matrix Q2R (fst g), map (map_gradient Q2R) (snd g)).
Proof.
  intros Which g. assert (Same : same_activation Q2R a b).
  { destruct Which as [[-> ->]|[[slope [-> ->]]|[-> ->]]];
      [apply same_relu | apply same_leaky_relu | apply same_identity]; exact Q2R_preserves. }
  split; [apply (logits_are_exact Q2R a b Same) | apply (gradients_are_exact Q2R a b Same)].
Qed.

(* Executed by Coq itself: the network that tests/verification/test_oracle.py works out by hand. *)
Example executed_by_hand :
  let hidden := {| units := 2; weight := [[1; 2]; [3; 4]]; bias := Some [1; -1] |}%Q in
  let last := {| units := 1; weight := [[1 # 7; -2]]; bias := None |}%Q in
  let x := [[1 # 2; -1 # 3]]%Q in
  logits relu 1 2 x [hidden] last = [[5 # 42]]%Q
  /\ gradients relu 1 2 x [hidden] last [[1]]%Q
     = ([[1 # 7; 2 # 7]], [([[1 # 14; -1 # 21]; [0; 0]], Some [1 # 7; 0]); ([[5 # 6; 0]], None)])%Q.
Proof. vm_compute. split; reflexivity. Qed.
