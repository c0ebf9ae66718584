(* Convex, strongly convex and smooth functions on R^n, and the inequalities between values and gradients.

   Source: Y. Nesterov, Lectures on Convex Optimization, 2nd ed., 2018: Lemma 1.2.3 (descent), Theorem 2.1.5 (convex and
   smooth), Theorem 2.1.12 (strongly convex and smooth). Each is proved here from the definitions, so that nothing of it
   is assumed where convergence is proved. *)
Require Import Reals Lra Lia Psatz.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.RealNumbers convergence.Vectors.
Open Scope R_scope.

Section Definitions.
  Variable n : nat.
  Implicit Types (f : vec -> R) (gradient : vec -> vec).

  (* At every x, and along every v, f has the derivative <gradient x, v>. *)
  Definition has_gradient f gradient : Prop :=
    forall x v : vec, is_derive (fun t => f (x + t * v)%V) 0 (inner n (gradient x) v).

  (* f is L-smooth: ||gradient x - gradient y|| <= L ||x - y||. *)
  Definition smooth (L : R) f gradient : Prop :=
    has_gradient f gradient
    /\ forall x y : vec, norm2 n (gradient x - gradient y)%V <= L ^ 2 * norm2 n (x - y)%V.

  (* f((1-t) x + t y) <= (1-t) f(x) + t f(y), where x + t (y - x) is that point between x and y. *)
  Definition convex f : Prop :=
    forall (x y : vec) t, 0 <= t <= 1 -> f (x + t * (y - x))%V <= (1 - t) * f x + t * f y.

  (* The same with room mu/2 t (1-t) ||x - y||^2 to spare. *)
  Definition strongly_convex (mu : R) f : Prop :=
    forall (x y : vec) t, 0 <= t <= 1 ->
    f (x + t * (y - x))%V <= (1 - t) * f x + t * f y - mu / 2 * (t * (1 - t)) * norm2 n (y - x)%V.

  Definition minimizer f (star : vec) : Prop := forall x, f star <= f x.
End Definitions.

(* A function on [0, 1] that is largest at 0 has there a derivative <= 0. *)
Lemma derivative_at_largest (phi : R -> R) d :
  is_derive phi 0 d -> (forall t, 0 < t <= 1 -> phi t <= phi 0) -> d <= 0.
Proof.
  intros Der Less. apply is_derive_Reals in Der. apply Rnot_lt_le. intros Pos.
  destruct (Der d Pos) as [delta Close]. destruct delta as [delta Dp]. simpl in Close.
  set (h := Rmin (delta / 2) 1).
  assert (H : 0 < h <= 1 /\ h < delta).
  { unfold h. assert (A := Rmin_l (delta / 2) 1). assert (B := Rmin_r (delta / 2) 1).
    assert (C : 0 < Rmin (delta / 2) 1) by (apply Rmin_glb_lt; lra). lra. }
  specialize (Close h ltac:(lra) ltac:(rewrite Rabs_pos_eq; lra)). rewrite Rplus_0_l in Close.
  assert (Q : (phi h - phi 0) / h <= 0).
  { apply Rmult_le_reg_r with h; [lra|]. replace ((phi h - phi 0) / h * h) with (phi h - phi 0) by (field; lra).
    specialize (Less h ltac:(lra)). lra. }
  apply Rabs_def2 in Close. lra.
Qed.

(* A function on [0, 1] with a derivative <= 0 ends no higher than it begins. *)
Lemma decreasing_ends_lower (phi phi' : R -> R) :
  (forall t, 0 <= t <= 1 -> is_derive phi t (phi' t)) -> (forall t, 0 <= t <= 1 -> phi' t <= 0) -> phi 1 <= phi 0.
Proof.
  intros Der Neg. destruct (MVT_gen phi 0 1 phi') as (c & Ic & Eq).
  - intros t I. rewrite Rmin_left, Rmax_right in I by lra. apply Der. lra.
  - intros t I. rewrite Rmin_left, Rmax_right in I by lra. apply continuity_pt_filterlim.
    apply (ex_derive_continuous phi). exists (phi' t). apply Der. lra.
  - rewrite Rmin_left, Rmax_right in Ic by lra. specialize (Neg c Ic). lra.
Qed.

Section Inequalities.
  Variables (n : nat) (f : vec -> R) (gradient : vec -> vec).
  Local Notation "<< u , v >>" := (inner n u v).
  Local Notation "|| v ||^2" := (norm2 n v%V) (at level 35, v at level 60).

  Lemma ahead_0 (x v : vec) : (x + 0 * v)%V = x.
  Proof. same_vector. Qed.

  Lemma ahead_1 (x y : vec) : (x + 1 * (y - x))%V = y.
  Proof. same_vector. Qed.

  Lemma convex_is_strongly_convex_0 : convex f -> strongly_convex n 0 f.
  Proof. intros C x y t T. specialize (C x y t T). lra. Qed.

  Hypothesis Gradient : has_gradient n f gradient.

  Lemma derivative_along (x v : vec) t : is_derive (fun u => f (x + u * v)%V) t (<< gradient (x + t * v)%V, v >>).
  Proof.
    assert (D := Gradient (x + t * v)%V v).
    apply (is_derive_ext (fun u => f ((x + t * v) + (u - t) * v)%V)).
    { intros u. f_equal. same_vector. }
    rewrite <- (Rmult_1_l (<< _, v >>)).
    apply (is_derive_comp (fun s => f ((x + t * v) + s * v)%V) (fun u => u - t) t _ 1).
    - now replace (t - t) with 0 by ring.
    - auto_derive; [easy | ring].
  Qed.

  (* f(y) >= f(x) + <gradient x, y - x> + mu/2 ||y - x||^2 for a mu-strongly convex f; for mu = 0, a convex one *)
  Theorem strong_convexity_from_below mu : strongly_convex n mu f -> forall x y : vec,
    f x + << gradient x, (y - x)%V >> + mu / 2 * ||y - x||^2 <= f y.
  Proof.
    intros Convex x y. set (d := << gradient x, (y - x)%V >>). set (N := ||y - x||^2).
    set (c := f y - f x - mu / 2 * N).
    assert (Le : d - c <= 0); [|unfold c in Le; lra].
    apply (derivative_at_largest (fun t => f (x + t * (y - x))%V - (c * t + mu / 2 * N * t ^ 2))).
    - apply (is_derive_minus (fun t => f (x + t * (y - x))%V) (fun t => c * t + mu / 2 * N * t ^ 2) 0 d c).
      + apply Gradient.
      + auto_derive; [easy | ring].
    - intros t T. rewrite ahead_0. specialize (Convex x y t ltac:(lra)). fold N in Convex. unfold c. nra.
  Qed.

  (* Where f is least, its gradient is 0. *)
  Lemma gradient_at_minimizer star v : minimizer f star -> << gradient star, v >> = 0.
  Proof.
    intros Least. apply inner_of_null. assert (P := norm2_nonneg n (gradient star)).
    assert (D := Gradient star (-1 * gradient star)%V). rewrite inner_scal_r in D.
    assert (Q : - (-1 * ||gradient star||^2) <= 0); [|lra].
    apply (derivative_at_largest (fun t => - f (star + t * (-1 * gradient star))%V)).
    - apply (is_derive_opp (fun t => f (star + t * (-1 * gradient star))%V)). exact D.
    - intros t _. rewrite ahead_0. specialize (Least (star + t * (-1 * gradient star))%V). lra.
  Qed.

  Variable L : R.
  Hypothesis Lpos : 0 < L.
  Hypothesis Lipschitz : forall x y : vec, ||gradient x - gradient y||^2 <= L ^ 2 * ||x - y||^2.

  (* Descent lemma: f(y) <= f(x) + <gradient x, y - x> + L/2 ||y - x||^2 for an L-smooth f, convex or not *)
  Theorem descent_lemma (x y : vec) : f y <= f x + << gradient x, (y - x)%V >> + L / 2 * ||y - x||^2.
  Proof.
    set (d := << gradient x, (y - x)%V >>). set (N := ||y - x||^2).
    assert (Le := decreasing_ends_lower
      (fun t => f (x + t * (y - x))%V - (d * t + L / 2 * N * t ^ 2))
      (fun t => << gradient (x + t * (y - x))%V, (y - x)%V >> - (d + L * N * t))).
    cbv beta in Le. rewrite ahead_0, ahead_1 in Le.
    enough (f y - (d * 1 + L / 2 * N * 1 ^ 2) <= f x - (d * 0 + L / 2 * N * 0 ^ 2)) by lra. apply Le; intros t T.
    - apply (is_derive_minus (fun t => f (x + t * (y - x))%V) (fun t => d * t + L / 2 * N * t ^ 2)).
      + apply derivative_along.
      + auto_derive; [easy | field].
    - destruct (Req_dec t 0) as [->|Tn].
      { rewrite ahead_0. fold d. lra. }
      assert (I : << (gradient (x + t * (y - x)) - gradient x)%V, (y - x)%V >> <= L * t * N).
      { apply inner_le; [nra|]. apply Rle_trans with (1 := Lipschitz _ _). apply Req_le. unfold norm2.
        replace (x + t * (y - x) - x)%V with (t * (y - x))%V by same_vector.
        rewrite inner_scal_l, inner_scal_r. ring. }
      rewrite inner_minus_l in I. fold d in I. lra.
  Qed.

  (* One step of length alpha against any vector g:
       f(x - alpha g) <= f(x) - alpha <gradient x, g> + alpha^2 L/2 ||g||^2 *)
  Theorem descent_of_a_step (x g : vec) alpha :
    f (x - alpha * g)%V <= f x - alpha * << gradient x, g >> + alpha ^ 2 * L / 2 * ||g||^2.
  Proof.
    apply Rle_trans with (1 := descent_lemma x (x - alpha * g)%V).
    replace (x - alpha * g - x)%V with (- alpha * g)%V by same_vector.
    unfold norm2. rewrite inner_scal_l, !inner_scal_r. lra.
  Qed.

  (* ||gradient x||^2 <= 2 L (f(x) - f(star)) at a minimizer, convex or not *)
  Theorem gradient_bounded_by_gap (x star : vec) : minimizer f star -> ||gradient x||^2 <= 2 * L * (f x - f star).
  Proof.
    intros Least. assert (S := descent_of_a_step x (gradient x) (/ L)).
    specialize (Least (x - / L * gradient x)%V). fold (norm2 n (gradient x)) in S.
    set (N := ||gradient x||^2) in *. assert (H : f star <= f x - N * (/ L / 2)).
    { apply Rle_trans with (1 := Least). apply Rle_trans with (1 := S). apply Req_le. field. lra. }
    apply Rmult_le_compat_l with (r := 2 * L) in H; [|lra].
    replace (2 * L * (f x - N * (/ L / 2))) with (2 * L * f x - N) in H by (field; lra). lra.
  Qed.

  (* <gradient x - gradient y, x - y> >= mu L/(mu + L) ||x - y||^2 + 1/(mu + L) ||gradient x - gradient y||^2,
     multiplied by mu + L *)
  Theorem strongly_convex_smooth_monotone mu (x y : vec) : strongly_convex n mu f -> mu <= L ->
    mu * L * ||x - y||^2 + ||gradient x - gradient y||^2
    <= (mu + L) * << (gradient x - gradient y)%V, (x - y)%V >>.
  Proof.
    intros Convex Mu. set (e := (gradient x - gradient y - mu * (x - y))%V). set (P := << e, (x - y)%V >>).
    assert (Below := strong_convexity_from_below mu Convex).
    assert (Each : forall a, 2 * a * ||e||^2 - (L - mu) * a ^ 2 * ||e||^2 <= P).
    { intros a.
      assert (A := Rle_trans _ _ _ (Below x (y + a * e)%V) (descent_lemma y (y + a * e)%V)).
      assert (B := Rle_trans _ _ _ (Below y (x - a * e)%V) (descent_lemma x (x - a * e)%V)).
      clear Below. unfold P, e in *.
      expand.
      rewrite (inner_sym n y x), ?(inner_sym n x (gradient _)), ?(inner_sym n y (gradient _)),
        ?(inner_sym n (gradient y) (gradient x)) in *. lra. }
    assert (N := norm2_nonneg n e).
    assert (Bound : ||e||^2 <= (L - mu) * P).
    { destruct (Rlt_le_dec mu L) as [Lt|Ge].
      - specialize (Each (/ (L - mu))).
        replace (2 * / (L - mu) * ||e||^2 - (L - mu) * (/ (L - mu)) ^ 2 * ||e||^2) with (||e||^2 / (L - mu)) in Each
          by (field; lra).
        apply Rmult_le_compat_l with (r := L - mu) in Each; [|lra].
        now replace ((L - mu) * (||e||^2 / (L - mu))) with (||e||^2) in Each by (field; lra).
      - replace (L - mu) with 0 in * by lra. rewrite Rmult_0_l. apply Rnot_lt_le. intros Pos.
        assert (P0 := Each 0). specialize (Each ((P + 1) / ||e||^2)).
        replace (2 * ((P + 1) / ||e||^2) * ||e||^2 - 0 * ((P + 1) / ||e||^2) ^ 2 * ||e||^2) with (2 * (P + 1)) in Each
          by (field; lra). lra. }
    unfold P, e in *.
    expand.
    rewrite (inner_sym n y x), ?(inner_sym n x (gradient _)), ?(inner_sym n y (gradient _)),
      ?(inner_sym n (gradient y) (gradient x)) in *. lra.
  Qed.
End Inequalities.
