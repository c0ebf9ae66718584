(* Vectors of n real numbers, their inner product and squared length; expectations of random vectors.

   A vector is a function from indices to numbers, of which the first n count: a function f on R^n is one that has no
   derivative along any other coordinate, so nothing is said of what lies beyond n. `inner n u v` is
   u_0 v_0 + ... + u_(n-1) v_(n-1), `norm2 n v` the squared length ||v||^2. *)
Require Import Reals Lra Lia FunctionalExtensionality.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers generalization.Distribution.
Open Scope R_scope.

Definition vec := nat -> R.
Declare Scope vec_scope.
Delimit Scope vec_scope with V.
Bind Scope vec_scope with vec.

Definition vplus (u v : vec) : vec := fun i => u i + v i.
Definition vminus (u v : vec) : vec := fun i => u i - v i.
Definition vscal (a : R) (v : vec) : vec := fun i => a * v i.
Notation "u + v" := (vplus u v) : vec_scope.
Notation "u - v" := (vminus u v) : vec_scope.
Notation "a * v" := (vscal a%R v) : vec_scope.

Definition inner (n : nat) (u v : vec) : R := sum n (fun i => u i * v i).
Definition norm2 (n : nat) (v : vec) : R := inner n v v.

Lemma some_term_at_most_mean n (a : nat -> R) : (1 <= n)%nat -> exists k, (k < n)%nat /\ a k <= sum n a / INR n.
Proof.
  intros N. assert (P : 0 < INR n) by (apply (lt_INR 0); lia). set (m := sum n a / INR n).
  assert (Sm : sum n a = INR n * m) by (unfold m; field; lra).
  assert (G : forall c, (forall k, (k < c)%nat -> m < a k) \/ exists k, (k < c)%nat /\ a k <= m).
  { induction c as [|c [Above|(k & K & Le)]]; [left; lia | | right; exists k; split; [lia | exact Le]].
    destruct (Rle_lt_dec (a c) m) as [Le|Gt]; [right; exists c; split; [lia | exact Le]|].
    left. intros k K. destruct (Nat.eq_dec k c) as [->|]; [exact Gt | apply Above; lia]. }
  destruct (G n) as [Above|]; [|assumption]. exfalso.
  assert (X := sum_pos n (fun k => a k - m) ltac:(lia) ltac:(intros k K; specialize (Above k K); lra)).
  rewrite sum_minus, sum_const in X. lra.
Qed.

Section InnerProduct.
  Variable n : nat.
  Local Notation "<< u , v >>" := (inner n u v).

  Lemma inner_sym u v : << u, v >> = << v, u >>.
  Proof. apply sum_ext. intros. ring. Qed.

  Lemma inner_plus_l u v w : << (u + v)%V, w >> = << u, w >> + << v, w >>.
  Proof. unfold inner, vplus. rewrite <- sum_plus. apply sum_ext. intros. ring. Qed.

  Lemma inner_minus_l u v w : << (u - v)%V, w >> = << u, w >> - << v, w >>.
  Proof. unfold inner, vminus. rewrite <- sum_minus. apply sum_ext. intros. ring. Qed.

  Lemma inner_scal_l a u w : << (a * u)%V, w >> = a * << u, w >>.
  Proof. unfold inner, vscal. rewrite <- sum_scal. apply sum_ext. intros. ring. Qed.

  Lemma inner_plus_r u v w : << w, (u + v)%V >> = << w, u >> + << w, v >>.
  Proof. rewrite !(inner_sym w). apply inner_plus_l. Qed.

  Lemma inner_minus_r u v w : << w, (u - v)%V >> = << w, u >> - << w, v >>.
  Proof. rewrite !(inner_sym w). apply inner_minus_l. Qed.

  Lemma inner_scal_r a u w : << w, (a * u)%V >> = a * << w, u >>.
  Proof. rewrite !(inner_sym w). apply inner_scal_l. Qed.

  Lemma norm2_nonneg v : 0 <= norm2 n v.
  Proof. apply sum_nonneg. intros. nra. Qed.

  (* A vector whose squared length is 0 is orthogonal to every other. *)
  Lemma inner_of_null u v : norm2 n u = 0 -> << u, v >> = 0.
  Proof.
    intros Null. unfold inner. rewrite <- (sum_zero n). apply sum_ext. intros i I.
    assert (T := sum_ge_term n (fun i => u i * u i) i I ltac:(intros; nra)). cbv beta in T.
    change (sum n (fun i => u i * u i)) with (norm2 n u) in T. replace (u i) with 0 by nra. ring.
  Qed.

  Lemma norm2_minus u a v : norm2 n (u - a * v)%V = norm2 n u - 2 * a * << u, v >> + a ^ 2 * norm2 n v.
  Proof.
    unfold norm2. rewrite !inner_minus_l, !inner_minus_r, !inner_scal_l, !inner_scal_r, (inner_sym v u). ring.
  Qed.

  (* <u, v> <= c ||v||^2 if ||u|| <= c ||v||, a case of the inequality of Cauchy and Schwarz *)
  Lemma inner_le c u v : 0 < c -> norm2 n u <= c ^ 2 * norm2 n v -> << u, v >> <= c * norm2 n v.
  Proof.
    intros C Le. assert (P := norm2_nonneg (u - c * v)%V). rewrite norm2_minus in P. nra.
  Qed.
End InnerProduct.

(* Inner products of sums, differences and multiples, in terms of the inner products of what they are made of. *)
Ltac expand := unfold norm2 in *; repeat rewrite ?inner_plus_l, ?inner_minus_l, ?inner_scal_l, ?inner_plus_r,
  ?inner_minus_r, ?inner_scal_r in *.
Ltac same_vector := apply functional_extensionality; intro; unfold vplus, vminus, vscal; try lra; ring.

(* ---------- expectations ---------- *)

Section Expectation.
  Context {A : Type} (D : distribution A) (n : nat).

  Lemma E_minus f g : E D (fun a => f a - g a) = E D f - E D g.
  Proof.
    rewrite (E_ext D _ (fun a => f a + -1 * g a)) by (intros; ring). rewrite E_plus, E_scal. ring.
  Qed.

  Lemma E_sum_below m (f : A -> nat -> R) : E D (fun a => sum m (f a)) = sum m (fun i => E D (fun a => f a i)).
  Proof. induction m as [|m IH]; [exact (E_const D 0) | now rewrite sum_S, <- IH, <- E_plus]. Qed.

  (* The expectation of a random vector, coordinate by coordinate. *)
  Definition mean (v : A -> vec) : vec := fun i => E D (fun a => v a i).

  (* Its variance: E ||v - E v||^2. *)
  Definition variance (v : A -> vec) : R := E D (fun a => norm2 n (v a - mean v)%V).

  Lemma E_inner u v : E D (fun a => inner n u (v a)) = inner n u (mean v).
  Proof. unfold inner. rewrite E_sum_below. apply sum_ext. intros. apply E_scal. Qed.
End Expectation.
