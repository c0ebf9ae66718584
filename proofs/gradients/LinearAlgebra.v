(* The vector-Jacobian products of the rules of linear algebra, for every size.

   Each theorem says: when the arguments move along any curves, u(t) with the derivative u' at t and so on, then
     d/dt <g, F(u(t), v(t))>  =  <the formula for u, u'> + <the formula for v, v'>,
   g being the upstream gradient. `vdot` and `mdot` are the inner products of vectors and of matrices. *)
Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers.
Open Scope R_scope.

Definition vdot (n : nat) (u v : nat -> R) : R := sum n (fun i => u i * v i).
Definition mdot (r c : nat) (a b : nat -> nat -> R) : R := sum r (fun i => sum c (fun j => a i j * b i j)).

(* u(t), a vector of n entries, and a(t), a matrix of shape (r, c), have at t the derivatives u' and a'. *)
Definition vector_curve (n : nat) (u : R -> nat -> R) (t : R) (u' : nat -> R) : Prop :=
  forall i, (i < n)%nat -> is_derive (fun x => u x i) t (u' i).
Definition matrix_curve (r c : nat) (a : R -> nat -> nat -> R) (t : R) (a' : nat -> nat -> R) : Prop :=
  forall i j, (i < r)%nat -> (j < c)%nat -> is_derive (fun x => a x i j) t (a' i j).

Definition vadd (u v : nat -> R) (i : nat) : R := u i + v i.
Definition vsub (u v : nat -> R) (i : nat) : R := u i - v i.
Definition smul (c : R) (v : nat -> R) (i : nat) : R := c * v i.
Definition vmul (u v : nat -> R) (i : nat) : R := u i * v i.
Definition matadd (a b : nat -> nat -> R) (i j : nat) : R := a i j + b i j.
Definition matsub (a b : nat -> nat -> R) (i j : nat) : R := a i j - b i j.
Definition matsmul (c : R) (a : nat -> nat -> R) (i j : nat) : R := c * a i j.
Definition transpose (a : nat -> nat -> R) (i j : nat) : R := a j i.
Definition outer (u v : nat -> R) (i j : nat) : R := u i * v j.
Definition matvec (n : nat) (a : nat -> nat -> R) (v : nat -> R) (i : nat) : R := sum n (fun k => a i k * v k).
Definition matmul (n : nat) (a b : nat -> nat -> R) (i j : nat) : R := sum n (fun k => a i k * b k j).

Lemma derive_add f g (t f' g' : R) : is_derive f t f' -> is_derive g t g' -> is_derive (fun x => f x + g x) t (f' + g').
Proof. intros. now apply (is_derive_plus f g). Qed.
Lemma derive_sub f g (t f' g' : R) : is_derive f t f' -> is_derive g t g' -> is_derive (fun x => f x - g x) t (f' - g').
Proof. intros. now apply (is_derive_minus f g). Qed.
Lemma derive_scale (c : R) g (t g' : R) : is_derive g t g' -> is_derive (fun x => c * g x) t (c * g').
Proof. intros. now apply (is_derive_scal g). Qed.
Lemma derive_mul f g (t f' g' : R) :
  is_derive f t f' -> is_derive g t g' -> is_derive (fun x => f x * g x) t (f' * g t + f t * g').
Proof. intros. apply (is_derive_mult f g); auto. intros; apply Rmult_comm. Qed.

Lemma derive_to (f : R -> R) (t d e : R) : is_derive f t d -> d = e -> is_derive f t e.
Proof. intros D <-. exact D. Qed.

(* The derivative of <g, F> is <g, F'> when each entry of F has the derivative F'. *)
Lemma vdot_derive n g (f : R -> nat -> R) t f' :
  vector_curve n f t f' -> is_derive (fun x => vdot n g (f x)) t (vdot n g f').
Proof. intros D. apply is_derive_sum. intros i Hi. apply derive_scale. auto. Qed.
Lemma mdot_derive r c g (f : R -> nat -> nat -> R) t f' :
  matrix_curve r c f t f' -> is_derive (fun x => mdot r c g (f x)) t (mdot r c g f').
Proof. intros D. apply is_derive_sum. intros i Hi. apply is_derive_sum. intros j Hj. apply derive_scale. auto. Qed.

(* Equations between sums of products, entry by entry. *)
Ltac gather := repeat (rewrite <- sum_scal || rewrite <- sum_plus || rewrite <- sum_minus).
Ltac by_entries := unfold vdot, mdot; gather; apply sum_ext; intros; gather; try (apply sum_ext; intros);
  unfold vadd, vsub, smul, vmul, matadd, matsub, matsmul, transpose, outer; ring.

Section Rules.
  Context (t : R) (m n k : nat).
  Context (c : R -> R) (c' : R) (Dc : is_derive c t c').
  Context (u v : R -> nat -> R) (u' v' : nat -> R) (Du : vector_curve n u t u') (Dv : vector_curve n v t v').
  Context (w : R -> nat -> R) (w' : nat -> R) (Dw : vector_curve m w t w').
  Context (a b : R -> nat -> nat -> R) (a' b' : nat -> nat -> R).
  Context (Da : matrix_curve m n a t a') (Db : matrix_curve m n b t b').
  Context (e : R -> nat -> nat -> R) (e' : nat -> nat -> R) (De : matrix_curve n k e t e').
  Context (x : R -> nat -> nat -> R) (x' : nat -> nat -> R) (Dx : matrix_curve k n x t x').

  (* u + v: g in u, g in v *)
  Theorem vadd_vjp g : is_derive (fun s => vdot n g (vadd (u s) (v s))) t (vdot n g u' + vdot n g v').
  Proof.
    eapply derive_to; [apply vdot_derive; intros i Hi; apply derive_add; [now apply Du | now apply Dv]|]. by_entries.
  Qed.

  (* u - v: g in u, -g in v *)
  Theorem vsub_vjp g : is_derive (fun s => vdot n g (vsub (u s) (v s))) t (vdot n g u' + vdot n (smul (-1) g) v').
  Proof.
    eapply derive_to; [apply vdot_derive; intros i Hi; apply derive_sub; [now apply Du | now apply Dv]|]. by_entries.
  Qed.

  (* c v: c g in v, <g, v> in c *)
  Theorem smul_vjp g :
    is_derive (fun s => vdot n g (smul (c s) (v s))) t (vdot n (smul (c t) g) v' + vdot n g (v t) * c').
  Proof.
    eapply derive_to; [apply vdot_derive; intros i Hi; apply derive_mul; [exact Dc | now apply Dv]|].
    rewrite (Rmult_comm _ c'). by_entries.
  Qed.

  (* u * v, entry by entry: g * v in u, g * u in v *)
  Theorem vmul_vjp g :
    is_derive (fun s => vdot n g (vmul (u s) (v s))) t (vdot n (vmul g (v t)) u' + vdot n (vmul g (u t)) v').
  Proof.
    eapply derive_to; [apply vdot_derive; intros i Hi; apply derive_mul; [now apply Du | now apply Dv]|]. by_entries.
  Qed.

  (* <u, v>: g v in u, g u in v *)
  Theorem dot_vjp g :
    is_derive (fun s => g * vdot n (u s) (v s)) t (vdot n (smul g (v t)) u' + vdot n (smul g (u t)) v').
  Proof.
    eapply derive_to.
    { apply derive_scale, is_derive_sum. intros i Hi. apply derive_mul; [now apply Du | now apply Dv]. }
    by_entries.
  Qed.

  (* |v|^2: 2 g v *)
  Theorem norm_squared_vjp g : is_derive (fun s => g * vdot n (v s) (v s)) t (vdot n (smul (2 * g) (v t)) v').
  Proof.
    eapply derive_to.
    { apply derive_scale, is_derive_sum. intros i Hi. apply derive_mul; now apply Dv. }
    by_entries.
  Qed.

  (* A + B: g in A, g in B *)
  Theorem matadd_vjp g : is_derive (fun s => mdot m n g (matadd (a s) (b s))) t (mdot m n g a' + mdot m n g b').
  Proof.
    eapply derive_to; [apply mdot_derive; intros i j Hi Hj; apply derive_add; [now apply Da | now apply Db]|].
    by_entries.
  Qed.

  (* A - B: g in A, -g in B *)
  Theorem matsub_vjp g :
    is_derive (fun s => mdot m n g (matsub (a s) (b s))) t (mdot m n g a' + mdot m n (matsmul (-1) g) b').
  Proof.
    eapply derive_to; [apply mdot_derive; intros i j Hi Hj; apply derive_sub; [now apply Da | now apply Db]|].
    by_entries.
  Qed.

  (* c A: c g in A, <g, A> in c *)
  Theorem matsmul_vjp g :
    is_derive (fun s => mdot m n g (matsmul (c s) (a s))) t (mdot m n (matsmul (c t) g) a' + mdot m n g (a t) * c').
  Proof.
    eapply derive_to; [apply mdot_derive; intros i j Hi Hj; apply derive_mul; [exact Dc | now apply Da]|].
    rewrite (Rmult_comm _ c'). by_entries.
  Qed.

  (* A^T: g^T *)
  Theorem transpose_vjp g : is_derive (fun s => mdot n m g (transpose (a s))) t (mdot m n (transpose g) a').
  Proof.
    eapply derive_to; [apply mdot_derive; intros i j Hi Hj; now apply Da|]. unfold mdot. rewrite sum_swap. by_entries.
  Qed.

  (* w v^T: g v in w, g^T w in v *)
  Theorem outer_vjp g : is_derive (fun s => mdot m n g (outer (w s) (v s))) t
    (vdot m (matvec n g (v t)) w' + vdot n (matvec m (transpose g) (w t)) v').
  Proof.
    eapply derive_to.
    { apply mdot_derive. intros i j Hi Hj. apply derive_mul; [now apply Dw | now apply Dv]. }
    unfold mdot.
    rewrite (sum_ext m _ (fun i => sum n (fun j => g i j * v t j) * w' i + sum n (fun j => g i j * w t i * v' j))).
    2:{ intros i Hi. rewrite <- sum_scal_r, <- sum_plus. apply sum_ext. intros; ring. }
    rewrite sum_plus, sum_swap. unfold vdot, matvec, transpose. f_equal.
    apply sum_ext. intros j Hj. now rewrite <- sum_scal_r.
  Qed.

  (* A B: g B^T in A, A^T g in B; with one column, or with only one of the two moving, the rules of A v below *)
  Theorem matmul_vjp g : is_derive (fun s => mdot m k g (matmul n (a s) (e s))) t
    (mdot m n (matmul k g (transpose (e t))) a' + mdot n k (matmul m (transpose (a t)) g) e').
  Proof.
    eapply derive_to.
    { apply mdot_derive. intros i j Hi Hj. apply is_derive_sum. intros l Hl.
      apply derive_mul; [now apply Da | now apply De]. }
    unfold mdot, matmul, transpose.
    rewrite (sum_ext m _ (fun i => sum n (fun l => sum k (fun j => g i j * e t l j) * a' i l)
      + sum n (fun l => sum k (fun j => a t i l * g i j * e' l j)))).
    2:{ intros i Hi. rewrite <- sum_plus.
        rewrite (sum_ext n _ (fun l => sum k (fun j => g i j * (a' i l * e t l j + a t i l * e' l j)))).
        2:{ intros l Hl. rewrite <- sum_scal_r, <- sum_plus. apply sum_ext. intros; ring. }
        rewrite sum_swap. apply sum_ext. intros j Hj. now rewrite <- sum_scal. }
    rewrite sum_plus. f_equal. rewrite sum_swap. apply sum_ext. intros l Hl. rewrite sum_swap. apply sum_ext.
    intros j Hj. now rewrite <- sum_scal_r.
  Qed.

  (* A v: A^T g in v, g v^T in A *)
  Theorem matvec_vjp g : is_derive (fun s => vdot m g (matvec n (a s) (v s))) t
    (vdot n (matvec m (transpose (a t)) g) v' + mdot m n (outer g (v t)) a').
  Proof.
    eapply derive_to.
    { apply vdot_derive. intros i Hi. apply is_derive_sum. intros l Hl.
      apply derive_mul; [now apply Da | now apply Dv]. }
    unfold vdot, mdot, matvec, outer, transpose.
    rewrite (sum_ext m _ (fun i => sum n (fun l => a t i l * g i * v' l) + sum n (fun l => g i * v t l * a' i l))).
    2:{ intros i Hi. rewrite <- sum_scal, <- sum_plus. apply sum_ext. intros; ring. }
    rewrite sum_plus, sum_swap. f_equal. apply sum_ext. intros l Hl. now rewrite <- sum_scal_r.
  Qed.

  (* X A^T, a batch of k rows: g A in X, g^T X in A *)
  Theorem batch_matvec_vjp g : is_derive (fun s => mdot k m g (matmul n (x s) (transpose (a s)))) t
    (mdot k n (matmul m g (a t)) x' + mdot m n (matmul k (transpose g) (x t)) a').
  Proof.
    eapply derive_to.
    { apply mdot_derive. intros i j Hi Hj. apply is_derive_sum. intros l Hl.
      apply derive_mul; [now apply Dx | now apply Da]. }
    unfold mdot, matmul, transpose.
    rewrite (sum_ext k _ (fun i => sum n (fun l => sum m (fun j => g i j * a t j l) * x' i l)
      + sum m (fun j => sum n (fun l => g i j * x t i l * a' j l)))).
    2:{ intros i Hi.
        rewrite (sum_ext m _ (fun j =>
          sum n (fun l => g i j * a t j l * x' i l) + sum n (fun l => g i j * x t i l * a' j l))).
        2:{ intros j Hj. rewrite <- sum_plus, <- sum_scal. apply sum_ext. intros; ring. }
        rewrite sum_plus, sum_swap. f_equal. apply sum_ext. intros l Hl. now rewrite <- sum_scal_r. }
    rewrite sum_plus. f_equal. rewrite sum_swap. apply sum_ext. intros j Hj. rewrite sum_swap. apply sum_ext.
    intros l Hl. now rewrite <- sum_scal_r.
  Qed.

  (* X + v in every row, a batch of k rows: g in X, the sum of g over the batch in v *)
  Theorem batch_add_vector_vjp g : is_derive (fun s => mdot k n g (fun i j => x s i j + v s j)) t
    (mdot k n g x' + vdot n (fun j => sum k (fun i => g i j)) v').
  Proof.
    eapply derive_to.
    { apply mdot_derive. intros i j Hi Hj. apply derive_add; [now apply Dx | now apply Dv]. }
    unfold mdot, vdot.
    rewrite (sum_ext k _ (fun i => sum n (fun j => g i j * x' i j) + sum n (fun j => g i j * v' j))).
    2:{ intros i Hi. rewrite <- sum_plus. apply sum_ext. intros; ring. }
    rewrite sum_plus. f_equal. rewrite sum_swap. apply sum_ext. intros j Hj. now rewrite <- sum_scal_r.
  Qed.
End Rules.

(* Vectors form a vector space: the laws that the rules are used with. *)
Theorem vadd_commutative u v i : vadd u v i = vadd v u i.
Proof. unfold vadd. ring. Qed.
Theorem vadd_associative u v w i : vadd (vadd u v) w i = vadd u (vadd v w) i.
Proof. unfold vadd. ring. Qed.
Theorem smul_distributes c u v i : smul c (vadd u v) i = vadd (smul c u) (smul c v) i.
Proof. unfold vadd, smul. ring. Qed.
Theorem smul_distributes_over_numbers c d v i : smul (c + d) v i = vadd (smul c v) (smul d v) i.
Proof. unfold vadd, smul. ring. Qed.
Theorem smul_associative c d v i : smul (c * d) v i = smul c (smul d v) i.
Proof. unfold smul. ring. Qed.
