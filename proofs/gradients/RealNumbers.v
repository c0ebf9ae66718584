(* The real numbers as `Numbers`; sums of real numbers, inner products of arrays, and the derivative of a sum.

   A curve of matrices has a derivative if each of its entries has one: `moves`. *)
Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers.
Open Scope R_scope.

#[global] Instance real_numbers : Numbers R := {|
  zero := 0; one := 1; add := Rplus; sub := Rminus; mul := Rmult;
  nonpositive x := if Rle_dec x 0 then true else false |}.

(* The operations of the structure, written as those of the real numbers. *)
Ltac real := cbn [zero one add sub mul nonpositive real_numbers] in *.

(* An equation of elements of a Coquelicot structure over R, as an equation of real numbers. *)
Ltac in_reals := match goal with |- ?a = ?b => change (@eq R a b) end.

Lemma sum_S n (f : nat -> R) : sum (S n) f = sum n f + f n.
Proof. reflexivity. Qed.

Lemma sum_plus n (f g : nat -> R) : sum n (fun i => f i + g i) = sum n f + sum n g.
Proof. induction n as [|n IH]; [real; simpl; ring|]. rewrite !sum_S, IH. ring. Qed.

Lemma sum_minus n (f g : nat -> R) : sum n (fun i => f i - g i) = sum n f - sum n g.
Proof. induction n as [|n IH]; [real; simpl; ring|]. rewrite !sum_S, IH. ring. Qed.

Lemma sum_scal n (c : R) (f : nat -> R) : sum n (fun i => c * f i) = c * sum n f.
Proof. induction n as [|n IH]; [real; simpl; ring|]. rewrite !sum_S, IH. ring. Qed.

Lemma sum_scal_r n (c : R) (f : nat -> R) : sum n (fun i => f i * c) = sum n f * c.
Proof. induction n as [|n IH]; [real; simpl; ring|]. rewrite !sum_S, IH. ring. Qed.

Lemma sum_zero n : sum n (fun _ => 0) = 0.
Proof. induction n as [|n IH]; [reflexivity|]. rewrite sum_S, IH. ring. Qed.

Lemma sum_const n (c : R) : sum n (fun _ => c) = INR n * c.
Proof. induction n as [|n IH]; [simpl; real; ring|]. rewrite sum_S, IH, S_INR. ring. Qed.

Lemma sum_swap n m (f : nat -> nat -> R) :
  sum n (fun i => sum m (fun j => f i j)) = sum m (fun j => sum n (fun i => f i j)).
Proof.
  induction n as [|n IH]; [simpl; now rewrite sum_zero|].
  rewrite sum_S, IH, <- sum_plus. reflexivity.
Qed.

Lemma sum_le n (f g : nat -> R) : (forall i, (i < n)%nat -> f i <= g i) -> sum n f <= sum n g.
Proof.
  induction n as [|n IH]; intros L; [simpl; lra|]. rewrite !sum_S.
  apply Rplus_le_compat; [apply IH; intros; apply L; lia | apply L; lia].
Qed.

Lemma sum_nonneg n (f : nat -> R) : (forall i, (i < n)%nat -> 0 <= f i) -> 0 <= sum n f.
Proof. intros L. rewrite <- (sum_zero n). now apply sum_le. Qed.

Lemma sum_pos n (f : nat -> R) : (0 < n)%nat -> (forall i, (i < n)%nat -> 0 < f i) -> 0 < sum n f.
Proof.
  destruct n as [|n]; intros N P; [lia|]. rewrite sum_S.
  apply Rplus_le_lt_0_compat; [apply sum_nonneg; intros; left; apply P; lia | apply P; lia].
Qed.

Lemma sum_ge_term n (f : nat -> R) k : (k < n)%nat -> (forall i, (i < n)%nat -> 0 <= f i) -> f k <= sum n f.
Proof.
  induction n as [|n IH]; intros K P; [lia|]. rewrite sum_S.
  assert (0 <= sum n f) by (apply sum_nonneg; intros; apply P; lia).
  destruct (Nat.eq_dec k n) as [->|]; [lra|].
  assert (f k <= sum n f) by (apply IH; [lia | intros; apply P; lia]). assert (0 <= f n) by (apply P; lia). lra.
Qed.

Lemma sum_onehot n y (f : nat -> R) : (y < n)%nat -> sum n (fun c => onehot y c * f c) = f y.
Proof.
  intros Y. assert (G : forall m, sum m (fun c => onehot y c * f c) = if Nat.ltb y m then f y else 0).
  { induction m as [|m IH]; [reflexivity|]. rewrite sum_S, IH. unfold onehot. real.
    destruct (Nat.ltb_spec y m), (Nat.ltb_spec y (S m)), (Nat.eqb_spec m y); subst; try lia; ring. }
  rewrite G. destruct (Nat.ltb_spec y n); [reflexivity | lia].
Qed.

Lemma is_derive_sum n (F : R -> nat -> R) (d : nat -> R) t :
  (forall i, (i < n)%nat -> is_derive (fun u => F u i) t (d i)) -> is_derive (fun u => sum n (F u)) t (sum n d).
Proof.
  induction n as [|n IH]; intros P; [apply (is_derive_const 0)|].
  apply (is_derive_plus (fun u => sum n (F u)) (fun u => F u n)); [apply IH; intros; apply P; lia | apply P; lia].
Qed.

(* <u, v> of vectors of n entries, and of matrices of shape (r, c) *)
Definition dot (n : nat) (u v : vector R) : R := sum n (fun i => item u i * item v i).
Definition inner (r c : nat) (a b : matrix R) : R := sum r (fun i => sum c (fun j => entry a i j * entry b i j)).

(* The curve of matrices of shape (r, c) has at 0 the derivative m'. *)
Definition moves (r c : nat) (m : R -> matrix R) (m' : matrix R) : Prop :=
  forall i j, (i < r)%nat -> (j < c)%nat -> is_derive (fun t => entry (m t) i j) 0 (entry m' i j).
Definition vector_moves (n : nat) (v : R -> vector R) (v' : vector R) : Prop :=
  forall i, (i < n)%nat -> is_derive (fun t => item (v t) i) 0 (item v' i).

(* The straight line from m in the direction v. *)
Definition line (r c : nat) (m v : matrix R) (t : R) : matrix R :=
  build r c (fun i j => entry m i j + t * entry v i j).
Definition vector_line (n : nat) (u v : vector R) (t : R) : vector R :=
  tabulate n (fun i => item u i + t * item v i).

Lemma is_derive_line (a d t : R) : is_derive (fun u => a + u * d) t d.
Proof.
  assert (X : is_derive (fun u => plus a (u * d)) t (plus 0 (scal 1 d))).
  { apply (is_derive_plus (fun _ => a) (fun u => u * d)); [apply (is_derive_const (V := R_NormedModule))|].
    apply (is_derive_scal_l (fun u => u) t 1 d). apply (is_derive_id (K := R_AbsRing)). }
  replace (plus 0 (scal 1 d)) with d in X by (unfold plus, scal; simpl; unfold mult; simpl; ring). exact X.
Qed.

Lemma line_moves r c m v : moves r c (line r c m v) v.
Proof.
  intros i j I J. apply (is_derive_ext (fun t => entry m i j + t * entry v i j)).
  - intros t. unfold line. now rewrite entry_build.
  - apply is_derive_line.
Qed.

Lemma vector_line_moves n u v : vector_moves n (vector_line n u v) v.
Proof.
  intros i I. apply (is_derive_ext (fun t => item u i + t * item v i)).
  - intros t. unfold vector_line. now rewrite item_tabulate.
  - apply is_derive_line.
Qed.
