(* The vector-Jacobian product of the dense layer z = x W^T + b, on a batch, in the input, the weight and the bias.

   `dense_backward_is_vjp`: whichever way x, W and b move, the upstream gradient paired with the motion of z equals the
   gradients of `dense_backward` paired with the motions of x, W and b. With W alone or x alone moving this is the
   derivative of matrix times vector by the matrix (g x^T) and by the vector (A^T g). Source: Rumelhart, Hinton and
   Williams, 1986, equations 4 to 6. *)
Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.Network gradients.RealNumbers.
Open Scope R_scope.

(* A direction of the parameters of a layer: of its weight and, where it has one, of its bias. *)
Definition direction : Type := matrix R * vector R.

(* The layer, moved by t along the direction. *)
Definition moved (D : nat) (l : layer R) (v : direction) (t : R) : layer R := {|
  units := units l;
  weight := line (units l) D (weight l) (fst v) t;
  bias := option_map (fun b => vector_line (units l) b (snd v) t) (bias l) |}.

(* <gradient of a layer's parameters, direction>; a layer without a bias has none in it *)
Definition layer_pairing (H D : nat) (g : matrix R * option (vector R)) (v : direction) : R :=
  inner H D (fst g) (fst v) + match snd g with None => 0 | Some b => dot H b (snd v) end.

(* The layer of `moved` at 0 computes what the layer computes, on entries that agree. *)
Lemma dense_forward_moved_0 B D x y l v :
  (forall b i, (b < B)%nat -> (i < D)%nat -> entry x b i = entry y b i) ->
  dense_forward B D x (moved D l v 0) = dense_forward B D y l.
Proof.
  intros E. unfold dense_forward. simpl units. apply build_ext. intros b j Hb Hj.
  assert (S : sum D (fun i => mul (entry x b i) (entry (weight (moved D l v 0)) j i))
            = sum D (fun i => mul (entry y b i) (entry (weight l) j i))).
  { apply sum_ext. intros i Hi. simpl. unfold line. rewrite entry_build, E by auto. real. ring. }
  rewrite S. unfold moved; simpl. destruct (bias l) as [a|]; [|reflexivity]. simpl. unfold vector_line.
  rewrite item_tabulate by auto. real. ring.
Qed.

(* The derivative of z when x and the parameters move. *)
Definition dense_motion (B D : nat) (x x' : matrix R) (l : layer R) (v : direction) : matrix R :=
  build B (units l) (fun b j =>
    sum D (fun i => entry x' b i * entry (weight l) j i + entry x b i * entry (fst v) j i)
    + match bias l with None => 0 | Some _ => item (snd v) j end).

Theorem dense_forward_derivative B D (x : R -> matrix R) x' l v :
  moves B D x x' ->
  moves B (units l) (fun t => dense_forward B D (x t) (moved D l v t)) (dense_motion B D (x 0) x' l v).
Proof.
  intros M b j Hb Hj. unfold dense_motion. rewrite entry_build by auto.
  assert (S : is_derive (fun t => sum D (fun i => entry (x t) b i * entry (weight (moved D l v t)) j i)) 0
    (sum D (fun i => entry x' b i * entry (weight l) j i + entry (x 0) b i * entry (fst v) j i))).
  { apply is_derive_sum. intros i Hi. simpl.
    replace (entry x' b i * entry (weight l) j i + entry (x 0) b i * entry (fst v) j i)
      with (plus (mult (entry x' b i) (entry (line (units l) D (weight l) (fst v) 0) j i))
                 (mult (entry (x 0) b i) (entry (fst v) j i))).
    2:{ unfold line. rewrite entry_build by auto. unfold plus, mult; simpl. ring. }
    apply (is_derive_mult (fun t => entry (x t) b i)
             (fun t => entry (line (units l) D (weight l) (fst v) t) j i));
      [now apply M | now apply line_moves | intros; apply Rmult_comm]. }
  apply (is_derive_ext (fun t => add_bias (bias (moved D l v t)) j
           (sum D (fun i => entry (x t) b i * entry (weight (moved D l v t)) j i)))).
  { intros t. unfold dense_forward. simpl units. now rewrite entry_build. }
  unfold add_bias. destruct (bias l) as [a|] eqn:E.
  - apply (is_derive_ext (fun t => sum D (fun i => entry (x t) b i * entry (weight (moved D l v t)) j i)
                                    + item (vector_line (units l) a (snd v) t) j)).
    { intros t. simpl. now rewrite E. }
    apply (is_derive_plus _ (fun t => item (vector_line (units l) a (snd v) t) j)); [exact S|].
    now apply vector_line_moves.
  - apply (is_derive_ext (fun t => sum D (fun i => entry (x t) b i * entry (weight (moved D l v t)) j i))).
    { intros t. simpl. now rewrite E. }
    rewrite Rplus_0_r. exact S.
Qed.

(* <dz, z'> = <dx, x'> + <dW, W'> + <db, b'> *)
Theorem dense_backward_is_vjp B D x x' l v d_z :
  let g := dense_backward B D x l d_z in
  inner B (units l) d_z (dense_motion B D x x' l v)
  = inner B D (d_x g) x' + layer_pairing (units l) D (d_weight g, d_bias g) v.
Proof.
  intros g. unfold inner at 1.
  rewrite (sum_ext B _ (fun b =>
    (sum D (fun i => sum (units l) (fun j => entry d_z b j * entry (weight l) j i) * entry x' b i)
     + sum (units l) (fun j => sum D (fun i => entry d_z b j * entry x b i * entry (fst v) j i)))
    + match bias l with None => 0 | Some _ => sum (units l) (fun j => entry d_z b j * item (snd v) j) end)).
  2:{ intros b Hb. unfold dense_motion.
      rewrite (sum_ext (units l) _ (fun j =>
        (sum D (fun i => entry d_z b j * entry (weight l) j i * entry x' b i)
         + sum D (fun i => entry d_z b j * entry x b i * entry (fst v) j i))
        + match bias l with None => 0 | Some _ => entry d_z b j * item (snd v) j end)).
      2:{ intros j Hj. rewrite entry_build, sum_plus by auto.
          rewrite (sum_ext D (fun i => entry d_z b j * entry (weight l) j i * entry x' b i)
                    (fun i => entry d_z b j * (entry x' b i * entry (weight l) j i))) by (intros; ring).
          rewrite (sum_ext D (fun i => entry d_z b j * entry x b i * entry (fst v) j i)
                    (fun i => entry d_z b j * (entry x b i * entry (fst v) j i))) by (intros; ring).
          rewrite !sum_scal. destruct (bias l); ring. }
      rewrite !sum_plus, sum_swap. f_equal; [f_equal|].
      - apply sum_ext. intros i _. now rewrite <- sum_scal_r.
      - destruct (bias l); [reflexivity | apply sum_zero]. }
  rewrite !sum_plus, Rplus_assoc. f_equal; [|unfold layer_pairing; f_equal].
  - unfold inner, g; simpl. apply sum_ext. intros b Hb. apply sum_ext. intros i Hi. now rewrite entry_build.
  - unfold inner, g; simpl. rewrite sum_swap. apply sum_ext. intros j Hj. rewrite sum_swap. apply sum_ext. intros i Hi.
    rewrite entry_build by auto. real. now rewrite sum_scal_r.
  - unfold g; simpl. destruct (bias l); [|apply sum_zero]. unfold dot. rewrite sum_swap. apply sum_ext. intros j Hj.
    rewrite item_tabulate by auto. now rewrite sum_scal_r.
Qed.
