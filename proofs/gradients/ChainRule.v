(* Jacobians, and the chain rule for functions of vectors, D(g o f) = Dg Df.

   `has_jacobian n m f x J`: along every curve through x with a derivative v there, f has the derivative J v. (For
   functions between R^n and R^m this is differentiability in the sense of Hadamard, which there is that of Frechet.) *)
Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers gradients.LinearAlgebra.
Open Scope R_scope.

Definition has_jacobian (n m : nat) (f : (nat -> R) -> nat -> R) (x : nat -> R) (J : nat -> nat -> R) : Prop :=
  forall (curve : R -> nat -> R) v,
    curve 0 = x -> vector_curve n curve 0 v -> vector_curve m (fun t => f (curve t)) 0 (matvec n J v).

(* D(g o f)(x) = Dg(f(x)) Df(x) *)
Theorem chain_rule n m k f g x F G :
  has_jacobian n m f x F -> has_jacobian m k g (f x) G -> has_jacobian n k (fun z => g (f z)) x (matmul m G F).
Proof.
  intros Hf Hg curve v Here V i Hi.
  assert (D := Hg (fun t => f (curve t)) _ (f_equal f Here) (Hf curve v Here V) i Hi).
  replace (matvec n (matmul m G F) v i) with (matvec m G (matvec n F v) i); [exact D|].
  unfold matvec, matmul.
  rewrite (sum_ext m _ (fun l => sum n (fun j => G i l * F l j * v j))).
  2:{ intros l Hl. rewrite <- sum_scal. apply sum_ext. intros; ring. }
  rewrite sum_swap. apply sum_ext. intros j Hj. now rewrite <- sum_scal_r.
Qed.

(* The backward: the gradient g pulled back through J is J^T g, and through a composition it is F^T (G^T g). *)
Theorem chain_rule_backward n m k (F G : nat -> nat -> R) g v :
  vdot k g (matvec n (matmul m G F) v) = vdot n (matvec m (transpose F) (matvec k (transpose G) g)) v.
Proof.
  unfold vdot, matvec, matmul, transpose.
  rewrite (sum_ext k _ (fun i => sum n (fun j => sum m (fun l => F l j * (G i l * g i)) * v j))).
  2:{ intros i Hi. rewrite <- sum_scal. apply sum_ext. intros j Hj. rewrite <- !sum_scal_r, <- sum_scal.
      apply sum_ext. intros; ring. }
  rewrite sum_swap. apply sum_ext. intros j Hj. rewrite sum_scal_r. f_equal. rewrite sum_swap. apply sum_ext.
  intros l Hl. now rewrite sum_scal.
Qed.

Definition identity_matrix (i j : nat) : R := onehot i j.

Lemma identity_matrix_matvec n v i : (i < n)%nat -> matvec n identity_matrix v i = v i.
Proof. intros I. unfold matvec, identity_matrix. now apply sum_onehot. Qed.

(* D(v + b) = I *)
Theorem vadd_jacobian n b x : has_jacobian n n (fun v => vadd v b) x identity_matrix.
Proof.
  intros curve v _ V i Hi. rewrite identity_matrix_matvec, <- (Rplus_0_r (v i)) by auto.
  apply derive_add; [now apply V | apply (is_derive_const (V := R_NormedModule))].
Qed.

(* D(c v) = c I *)
Theorem smul_jacobian n c x : has_jacobian n n (smul c) x (matsmul c identity_matrix).
Proof.
  intros curve v _ V i Hi. replace (matvec n (matsmul c identity_matrix) v i) with (c * v i).
  - apply derive_scale. now apply V.
  - rewrite <- (identity_matrix_matvec n v i Hi). unfold matvec, matsmul. rewrite <- sum_scal. apply sum_ext.
    intros; ring.
Qed.

(* D(A v) = A *)
Theorem matvec_jacobian m n a x : has_jacobian n m (matvec n a) x a.
Proof.
  intros curve v _ V i Hi. apply is_derive_sum. intros j Hj. apply derive_scale. now apply V.
Qed.
