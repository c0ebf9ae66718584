(* Forward and backward of a multilayer perceptron, over any numbers: the mathematics of lean_mnist/chainrule
   (activations.py, dense.py, mlp.py, and the squared error of losses.py), formula by formula, on a batch.

   Shapes: B examples, D features in, H units out. An activation stands between the layers and none after the last.
   A layer may lack its bias. A forward returns the tape that the backward needs (inputs, and what activations keep). *)
Require Import List Arith.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers.

(* of one number: `act_forward z = (h, saved)` and `act_backward saved d_h = d_z` *)
Record activation (T : Type) := { act_forward : T -> T * T; act_backward : T -> T -> T }.
Arguments act_forward {T}. Arguments act_backward {T}.

Record layer (T : Type) := { units : nat; weight : matrix T; bias : option (vector T) }.
Arguments units {T}. Arguments weight {T}. Arguments bias {T}.

Record dense_gradients (T : Type) := { d_x : matrix T; d_weight : matrix T; d_bias : option (vector T) }.
Arguments d_x {T}. Arguments d_weight {T}. Arguments d_bias {T}.

Section Network.
  Context {T : Type} `{Numbers T}.

  (* max(z, 0); derivative 1 where z > 0, by convention 0 at 0 *)
  Definition relu : activation T := {|
    act_forward z := let h := if nonpositive z then zero else z in (h, h);
    act_backward h d_h := if nonpositive h then zero else d_h |}.

  (* z where z > 0, slope * z elsewhere; derivative 1 where z > 0, by convention the slope also at 0 *)
  Definition leaky_relu (slope : T) : activation T := {|
    act_forward z := let h := if nonpositive z then mul slope z else z in (h, h);
    act_backward h d_h := if nonpositive h then mul slope d_h else d_h |}.

  Definition identity : activation T := {| act_forward z := (z, z); act_backward _ d_h := d_h |}.

  Definition add_bias (b : option (vector T)) (j : nat) (z : T) : T :=
    match b with None => z | Some v => add z (item v j) end.

  (* z = x W^T + b *)
  Definition dense_forward (B D : nat) (x : matrix T) (l : layer T) : matrix T :=
    build B (units l) (fun b j =>
      add_bias (bias l) j (sum D (fun i => mul (entry x b i) (entry (weight l) j i)))).

  (* dx = dz W,  dW = dz^T x,  db = sum of dz over the batch *)
  Definition dense_backward (B D : nat) (x : matrix T) (l : layer T) (d_z : matrix T) : dense_gradients T := {|
    d_x := build B D (fun b i => sum (units l) (fun j => mul (entry d_z b j) (entry (weight l) j i)));
    d_weight := build (units l) D (fun j i => sum B (fun b => mul (entry d_z b j) (entry x b i)));
    d_bias := match bias l with
      | None => None
      | Some _ => Some (tabulate (units l) (fun j => sum B (fun b => entry d_z b j))) end |}.

  Definition activate (act : activation T) (B H : nat) (z : matrix T) : matrix T :=
    build B H (fun b j => fst (act_forward act (entry z b j))).
  Definition kept (act : activation T) (B H : nat) (z : matrix T) : matrix T :=
    build B H (fun b j => snd (act_forward act (entry z b j))).
  Definition activate_backward (act : activation T) (B H : nat) (saved d_h : matrix T) : matrix T :=
    build B H (fun b j => act_backward act (entry saved b j) (entry d_h b j)).

  (* of each hidden layer its input and what its activation keeps; the input of the last layer *)
  Definition tape : Type := list (matrix T * matrix T) * matrix T.

  (* h_0 = x,  z_l = h_(l-1) W_l^T + b_l,  h_l = act(z_l), and the logits are the last z *)
  Fixpoint mlp_forward (act : activation T) (B D : nat) (x : matrix T) (hidden : list (layer T)) (last : layer T)
    : matrix T * tape :=
    match hidden with
    | [] => (dense_forward B D x last, ([], x))
    | l :: above =>
      let z := dense_forward B D x l in
      let r := mlp_forward act B (units l) (activate act B (units l) z) above last in
      (fst r, ((x, kept act B (units l) z) :: fst (snd r), snd (snd r)))
    end.

  (* the chain rule, last layer first: the gradient of the input, and of each layer's weight and bias *)
  Fixpoint mlp_backward (act : activation T) (B D : nat) (saved : list (matrix T * matrix T)) (last_x : matrix T)
      (hidden : list (layer T)) (last : layer T) (d_logits : matrix T)
    : matrix T * list (matrix T * option (vector T)) :=
    match hidden, saved with
    | l :: above, (x, s) :: saved_above =>
      let r := mlp_backward act B (units l) saved_above last_x above last d_logits in
      let g := dense_backward B D x l (activate_backward act B (units l) s (fst r)) in
      (d_x g, (d_weight g, d_bias g) :: snd r)
    | _, _ => let g := dense_backward B D last_x last d_logits in (d_x g, [(d_weight g, d_bias g)])
    end.

  (* forward, then backward from the gradient of the logits *)
  Definition logits act B D x hidden last : matrix T := fst (mlp_forward act B D x hidden last).
  Definition gradients act B D x hidden last (d_logits : matrix T) :=
    let t := snd (mlp_forward act B D x hidden last) in
    mlp_backward act B D (fst t) (snd t) hidden last d_logits.

  (* loss = half * sum_c (s_c - onehot(y)_c)^2,  ds = (s - onehot(y)) * dloss *)
  Definition squared_error_forward (half : T) (B C : nat) (s : matrix T) (y : nat -> nat) : vector T :=
    tabulate B (fun b => mul half (sum C (fun c =>
      let r := sub (entry s b c) (onehot (y b) c) in mul r r))).
  Definition squared_error_backward (B C : nat) (s : matrix T) (y : nat -> nat) (d_loss : vector T) : matrix T :=
    build B C (fun b c => mul (sub (entry s b c) (onehot (y b) c)) (item d_loss b)).
End Network.
