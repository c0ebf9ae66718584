(* Inequalities between exp of a rational and a rational, decided by computation.

   With S_n(x) = sum_{i<=n} x^i/i! and r = x^(n+1)/(n+1)!, for x >= 0 Taylor's theorem gives
     S_n(x) <= exp x,   and   exp x <= S_n(x) / (1 - r)   where r < 1.
   Both are evaluated in integers ([partial]), so that a numeric bound is a theorem and no float takes part. *)

Require Import Reals Lra Lia ZArith List.
From Coquelicot Require Import Coquelicot.
From LeanMnist.generalization Require Import Hoeffding.
Open Scope R_scope.

Definition exp_series (x : R) (n : nat) : R := sum_f_R0 (fun i => x ^ i / INR (fact i)) n.

Lemma exp_derivatives k x : is_derive_n exp k x (exp x).
Proof.
  revert x; induction k; intros x; [reflexivity|].
  apply (is_derive_ext exp); [|apply is_derive_exp]. intros t. symmetry. apply is_derive_n_unique, IHk.
Qed.

Lemma exp_taylor x n : 0 < x ->
  exists z, 0 < z < x /\ exp x = exp_series x n + x ^ S n / INR (fact (S n)) * exp z.
Proof.
  intros Hx. destruct (Taylor_Lagrange exp n 0 x Hx) as (z & Hz & Eq).
  - intros t _ k _. destruct k; [exact I|]. exists (exp t). apply (exp_derivatives (S k) t).
  - exists z. split; [exact Hz|].
    rewrite Eq, (is_derive_n_unique exp (S n) z _ (exp_derivatives (S n) z)), Rminus_0_r. f_equal.
    apply sum_eq. intros i _. rewrite (is_derive_n_unique exp i 0 _ (exp_derivatives i 0)), exp_0. ring.
Qed.

Lemma exp_series_0 n : exp_series 0 n = 1.
Proof.
  unfold exp_series. induction n; [simpl; field|]. rewrite tech5, IHn, pow_i by lia. unfold Rdiv. ring.
Qed.

Lemma exp_at_least_series x n : 0 <= x -> exp_series x n <= exp x.
Proof.
  intros [Hx | <-]; [|rewrite exp_series_0, exp_0; apply Rle_refl].
  destruct (exp_taylor x n Hx) as (z & _ & ->).
  assert (0 <= x ^ S n / INR (fact (S n)) * exp z); [|lra].
  apply Rmult_le_pos; [|left; apply exp_pos].
  apply Rmult_le_pos; [apply pow_le; lra | left; apply Rinv_0_lt_compat, INR_fact_lt_0].
Qed.

Lemma exp_at_most_series x n : 0 <= x -> exp x * (1 - x ^ S n / INR (fact (S n))) <= exp_series x n.
Proof.
  intros [Hx | <-]; [|rewrite exp_series_0, exp_0, pow_i by lia; unfold Rdiv; lra].
  destruct (exp_taylor x n Hx) as (z & Hz & Eq).
  assert (0 <= x ^ S n / INR (fact (S n)))
    by (apply Rmult_le_pos; [apply pow_le; lra | left; apply Rinv_0_lt_compat, INR_fact_lt_0]).
  assert (exp z <= exp x) by (apply exp_le; lra).
  assert (x ^ S n / INR (fact (S n)) * exp z <= x ^ S n / INR (fact (S n)) * exp x) by now apply Rmult_le_compat_l.
  lra.
Qed.

(* ---------- the same in integers ---------- *)

(* (u, v, w) with S_n(a/b) = u/v and (a/b)^n/n! = w/v. *)
Fixpoint partial (n : nat) (a b : Z) : Z * Z * Z :=
  match n with
  | O => (1, 1, 1)%Z
  | S m => let '(u, v, w) := partial m a b in let s := (b * Z.of_nat n)%Z in (u * s + w * a, v * s, w * a)%Z
  end.

Lemma partial_spec n a b : (0 < b)%Z -> let '(u, v, w) := partial n a b in
  (0 < v)%Z /\ IZR u / IZR v = exp_series (IZR a / IZR b) n /\ IZR w / IZR v = (IZR a / IZR b) ^ n / INR (fact n).
Proof.
  intros Hb. induction n as [|n IH]; [split; [lia | split; unfold exp_series; simpl; field]|].
  cbn [partial]. destruct (partial n a b) as [[u v] w]. destruct IH as (Hv & Hu & Hw).
  assert (0 < IZR b) by now apply (IZR_lt 0). assert (0 < IZR v) by now apply (IZR_lt 0).
  assert (0 < INR (S n)) by (apply lt_0_INR; lia).
  assert (Next : IZR (w * a) / IZR (v * (b * Z.of_nat (S n))) = (IZR a / IZR b) ^ S n / INR (fact (S n))).
  { rewrite fact_simpl, mult_INR, !mult_IZR, <- INR_IZR_INZ.
    replace ((IZR a / IZR b) ^ S n / (INR (S n) * INR (fact n)))
      with ((IZR a / IZR b) ^ n / INR (fact n) * (IZR a / IZR b) / INR (S n))
      by (simpl pow; field; repeat split; try lra; apply INR_fact_neq_0).
    rewrite <- Hw. field. lra. }
  repeat split; [lia | | exact Next].
  unfold exp_series. rewrite tech5. fold (exp_series (IZR a / IZR b) n). rewrite <- Hu, <- Next.
  rewrite plus_IZR, !mult_IZR, <- INR_IZR_INZ. field. lra.
Qed.

(* Whether n terms of the series show that c/d <= exp (a/b). *)
Definition exp_at_least (n : nat) (a b c d : Z) : bool :=
  let '(u, v, _) := partial n a b in ((0 <=? a) && (0 <? b) && (0 <? d) && (c * v <=? u * d))%Z%bool.

(* Whether n + 1 terms of the series show that exp (a/b) < c/d. *)
Definition exp_below (n : nat) (a b c d : Z) : bool :=
  let '(u, v, w) := partial (S n) a b in
  ((0 <=? a) && (0 <? b) && (0 <? d) && (w <? v) && ((u - w) * d <? c * (v - w)))%Z%bool.

Lemma fraction_nonneg a b : (0 <= a)%Z -> (0 < b)%Z -> 0 <= IZR a / IZR b.
Proof.
  intros Ha Hb. apply Rmult_le_pos; [now apply (IZR_le 0)|]. left. apply Rinv_0_lt_compat. now apply (IZR_lt 0).
Qed.

(* If the computation says so, c/d <= exp(a/b). *)
Theorem exp_at_least_sound n a b c d : exp_at_least n a b c d = true -> IZR c / IZR d <= exp (IZR a / IZR b).
Proof.
  unfold exp_at_least. pose proof (partial_spec n a b) as Spec. destruct (partial n a b) as [[u v] w].
  rewrite !Bool.andb_true_iff, !Z.leb_le, !Z.ltb_lt. intros [[[Ha Hb] Hd] Hc]. destruct (Spec Hb) as (Hv & Hu & _).
  eapply Rle_trans; [|apply (exp_at_least_series (IZR a / IZR b) n), fraction_nonneg; assumption].
  rewrite <- Hu. assert (0 < IZR d) by now apply (IZR_lt 0). assert (0 < IZR v) by now apply (IZR_lt 0).
  apply IZR_le in Hc. rewrite !mult_IZR in Hc.
  apply (Rmult_le_reg_r (IZR d * IZR v)); [now apply Rmult_lt_0_compat|].
  replace (IZR c / IZR d * (IZR d * IZR v)) with (IZR c * IZR v) by (field; lra).
  replace (IZR u / IZR v * (IZR d * IZR v)) with (IZR u * IZR d) by (field; lra). exact Hc.
Qed.

(* If the computation says so, exp(a/b) < c/d. *)
Theorem exp_below_sound n a b c d : exp_below n a b c d = true -> exp (IZR a / IZR b) < IZR c / IZR d.
Proof.
  unfold exp_below. pose proof (partial_spec (S n) a b) as Spec. destruct (partial (S n) a b) as [[u v] w].
  rewrite !Bool.andb_true_iff, !Z.leb_le, !Z.ltb_lt. intros [[[[Ha Hb] Hd] Hw] Hc].
  destruct (Spec Hb) as (Hv & Hu & Hr).
  pose proof (exp_at_most_series (IZR a / IZR b) n (fraction_nonneg a b Ha Hb)) as Most.
  unfold exp_series in Hu. rewrite tech5 in Hu. fold (exp_series (IZR a / IZR b) n) in Hu. rewrite <- Hr in Hu, Most.
  assert (0 < IZR d) by now apply (IZR_lt 0). assert (0 < IZR v) by now apply (IZR_lt 0). apply IZR_lt in Hw, Hc.
  rewrite !mult_IZR, !minus_IZR in Hc.
  replace (1 - IZR w / IZR v) with ((IZR v - IZR w) / IZR v) in Most by (field; lra).
  replace (exp_series (IZR a / IZR b) n) with ((IZR u - IZR w) / IZR v) in Most by (unfold Rdiv in *; lra).
  apply (Rmult_lt_reg_r ((IZR v - IZR w) * IZR d)); [apply Rmult_lt_0_compat; lra|].
  replace (IZR c / IZR d * ((IZR v - IZR w) * IZR d)) with (IZR c * (IZR v - IZR w)) by (field; lra).
  eapply Rle_lt_trans; [|exact Hc].
  apply (Rmult_le_compat_r (IZR v * IZR d)) in Most; [|apply Rmult_le_pos; lra].
  replace (exp (IZR a / IZR b) * ((IZR v - IZR w) / IZR v) * (IZR v * IZR d))
    with (exp (IZR a / IZR b) * ((IZR v - IZR w) * IZR d)) in Most by (field; lra).
  replace ((IZR u - IZR w) / IZR v * (IZR v * IZR d)) with ((IZR u - IZR w) * IZR d) in Most by (field; lra).
  exact Most.
Qed.
