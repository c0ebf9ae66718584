(* The step sizes of Robbins and Monro: their sum diverges, the sum of their squares does not.

   1/(t + 1) is such a sequence, and with any such sequence, no step of which is above 2/(mu + L), SGD on a strongly
   convex, smooth function converges in mean square: E ||theta_t - theta*||^2 tends to 0. Source: Robbins and Monro, A
   stochastic approximation method, Annals of Mathematical Statistics 22, 1951; Bottou, Curtis and Nocedal, SIAM Review
   60, 2018, section 4.2. *)
Require Import Reals Lra Lia Psatz.
From Coquelicot Require Import Coquelicot.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers generalization.Distribution
  convergence.Vectors convergence.Convexity convergence.GradientDescent convergence.StochasticGradient.
Open Scope R_scope.

(* sum_k a_k = infinity, and sum_k a_k^2 is finite *)
Definition robbins_monro (steps : nat -> R) : Prop :=
  is_lim_seq (fun t => sum t steps) p_infty /\ ex_finite_lim_seq (fun t => sum t (fun k => steps k ^ 2)).

(* 1 + 1/2 + ... + 1/t >= ln(t + 1) *)
Lemma harmonic_at_least_log t : ln (INR t + 1) <= sum t (fun k => 1 / (INR k + 1)).
Proof.
  induction t as [|t IH]; [simpl; rewrite Rplus_0_l, ln_1; apply Rle_refl|].
  rewrite sum_S, S_INR. assert (P := pos_INR t).
  replace (INR t + 1 + 1) with ((INR t + 1) * (1 + / (INR t + 1))) by (field; lra).
  assert (I : 0 < / (INR t + 1)) by (apply Rinv_0_lt_compat; lra).
  rewrite ln_mult by lra. apply Rplus_le_compat; [exact IH|].
  assert (X := exp_ineq1 (/ (INR t + 1)) ltac:(lra)). apply Rlt_le in X.
  apply Rcomplements.ln_le in X; [|lra]. rewrite ln_exp in X. lra.
Qed.

(* 1 + 1/4 + ... + 1/t^2 <= 2 - 1/t *)
Lemma squares_at_most_2 t : sum t (fun k => (1 / (INR k + 1)) ^ 2) <= 2 - 1 / INR t \/ t = 0%nat.
Proof.
  induction t as [|t IH]; [now right|]. left. rewrite sum_S, S_INR. destruct IH as [IH| ->].
  2: { simpl. real. lra. }
  destruct t as [|t]; [simpl; real; lra|]. rewrite S_INR in *. assert (P := pos_INR t). set (x := INR t + 1) in *.
  assert (1 / x - 1 / (x + 1) - (1 / (x + 1)) ^ 2 = 1 / (x * (x + 1) ^ 2)) by (unfold x; field; lra).
  assert (0 < 1 / (x * (x + 1) ^ 2)).
  { apply Rdiv_lt_0_compat; [lra|]. apply Rmult_lt_0_compat; [unfold x; lra | apply pow_lt; unfold x; lra]. }
  lra.
Qed.

(* sum 1/(t + 1) diverges; sum 1/(t + 1)^2 converges, to at most 2. *)
Theorem one_over_t_plus_one_is_robbins_monro : robbins_monro (fun t => 1 / (INR t + 1)).
Proof.
  split.
  - apply is_lim_seq_spec. intros M. destruct (archimed (exp M)) as [Up _].
    assert (Z : (0 <= up (exp M))%Z) by (apply le_IZR; assert (E := exp_pos M); lra).
    exists (Z.to_nat (up (exp M))). intros t T. apply Rlt_le_trans with (2 := harmonic_at_least_log t).
    rewrite <- (ln_exp M). apply ln_increasing; [apply exp_pos|].
    apply le_INR in T. rewrite INR_IZR_INZ, Z2Nat.id in T by exact Z. lra.
  - apply ex_finite_lim_seq_incr with 2.
    + intros t. rewrite sum_S. assert (P := pow2_ge_0 (1 / (INR t + 1))). lra.
    + intros t. destruct (squares_at_most_2 t) as [Le| ->]; [|simpl; real; lra].
      destruct t as [|t]; [simpl; real; lra|].
      assert (0 < 1 / INR (S t)) by (apply Rdiv_lt_0_compat; [lra | apply (lt_INR 0); lia]). lra.
Qed.

(* ---------- sequences that such steps drive to 0 ---------- *)

Lemma sum_from s t (a : nat -> R) : sum (s + t) a = sum s a + sum t (fun k => a (s + k)%nat).
Proof. induction t as [|t IH]; [rewrite Nat.add_0_r; simpl; real; ring|]. rewrite Nat.add_succ_r, !sum_S, IH. ring. Qed.

(* r_(t+1) <= (1 - mu a_t) r_t + s a_t^2 with such steps a, and r >= 0: then r tends to 0. *)
Lemma driven_to_0 (r a : nat -> R) mu s : 0 < mu -> 0 <= s -> robbins_monro a ->
  (forall t, 0 <= r t) -> (forall t, 0 <= a t) -> (forall t, r (S t) <= (1 - mu * a t) * r t + s * a t ^ 2) ->
  is_lim_seq r 0.
Proof.
  intros Mu S0 [Diverges [total Converges]] R0 A0 Step. apply is_lim_seq_spec. intros [eps Eps].
  apply is_lim_seq_spec in Converges. apply is_lim_seq_spec in Diverges.
  assert (Delta : 0 < eps / (4 * (s + 1))) by (apply Rdiv_lt_0_compat; lra).
  destruct (Converges (mkposreal _ Delta)) as [T Tail]. simpl in Tail.
  (* From T on the noise adds less than eps/2 in all. *)
  assert (Noise : forall t k, (T <= t)%nat -> s * sum k (fun j => a (t + j)%nat ^ 2) <= eps / 2).
  { intros t k Le. assert (A := Tail t Le). assert (B := Tail (t + k)%nat ltac:(lia)).
    rewrite sum_from in B. apply Rabs_def2 in A. apply Rabs_def2 in B. set (x := sum k _) in *.
    assert (X : x <= 2 * (eps / (4 * (s + 1)))) by lra.
    apply Rle_trans with (s * (2 * (eps / (4 * (s + 1))))); [now apply Rmult_le_compat_l|].
    replace (s * (2 * (eps / (4 * (s + 1))))) with (eps / 2 * (s / (s + 1))) by (field; lra).
    assert (s / (s + 1) <= 1) by (apply Rmult_le_reg_r with (s + 1); [lra|]; field_simplify; lra). nra. }
  assert (Later : forall t k, r (t + k)%nat + mu * sum k (fun j => a (t + j)%nat * r (t + j)%nat)
                              <= r t + s * sum k (fun j => a (t + j)%nat ^ 2)).
  { intros t k. induction k as [|k IH]; [rewrite Nat.add_0_r; simpl; real; lra|].
    rewrite Nat.add_succ_r, !sum_S. specialize (Step (t + k)%nat). lra. }
  (* At some time after T it is below eps/2: else the sum of mu a_t r_t would diverge. *)
  assert (Low : exists t, (T <= t)%nat /\ r t < eps / 2).
  { destruct (Diverges (sum T a + (r T + eps) / (mu * (eps / 2)))) as [N Far].
    specialize (Far (T + N)%nat ltac:(lia)). rewrite sum_from in Far.
    assert (Never : ~ forall j, (j < N)%nat -> eps / 2 <= r (T + j)%nat).
    { intros Above. assert (X := Later T N). assert (Y := Noise T N (Nat.le_refl T)). assert (P := R0 (T + N)%nat).
      assert (Z : eps / 2 * sum N (fun j => a (T + j)%nat) <= sum N (fun j => a (T + j)%nat * r (T + j)%nat)).
      { rewrite <- sum_scal. apply sum_le. intros j J. specialize (Above j J). specialize (A0 (T + j)%nat). nra. }
      apply Rmult_le_compat_l with (r := mu) in Z; [|lra]. set (q := sum N (fun j => a (T + j)%nat)) in *.
      assert (Q : (r T + eps) / (mu * (eps / 2)) < q) by lra.
      apply Rmult_lt_compat_r with (r := mu * (eps / 2)) in Q; [|apply Rmult_lt_0_compat; lra].
      unfold Rdiv in Q at 1. rewrite Rmult_assoc, Rinv_l in Q by nra. lra. }
    clear - Never. induction N as [|N IH]; [exfalso; apply Never; intros; lia|].
    destruct (Rlt_le_dec (r (T + N)%nat) (eps / 2)) as [Lt|Ge]; [exists (T + N)%nat; split; [lia | exact Lt]|].
    apply IH. intros Above. apply Never. intros j J.
    destruct (Nat.eq_dec j N) as [->|]; [exact Ge | apply Above; lia]. }
  destruct Low as (t & Le & Low). exists t. intros u U. rewrite Rminus_0_r, Rabs_pos_eq by apply R0. simpl.
  replace u with (t + (u - t))%nat by lia. assert (X := Later t (u - t)%nat). assert (Y := Noise t (u - t)%nat Le).
  assert (0 <= sum (u - t) (fun j => a (t + j)%nat * r (t + j)%nat)).
  { apply sum_nonneg. intros j _. apply Rmult_le_pos; [apply A0 | apply R0]. }
  nra.
Qed.

(* For mu-strongly convex, L-smooth f with minimizer theta*, steps of Robbins and Monro in (0, 2/(mu + L)], and
   unbiased gradients of bounded variance:  E ||theta_t - theta*||^2 tends to 0. *)
Theorem sgd_converges_in_mean_square {Seed : Type} (D : distribution Seed) n f gradient L sampled sigma2 mu star steps
    theta :
  0 < L -> smooth n L f gradient -> unbiased_bounded D n gradient sampled sigma2 ->
  strongly_convex n mu f -> minimizer f star -> 0 < mu <= L ->
  robbins_monro steps -> (forall t, 0 < steps t <= 2 / (mu + L)) ->
  is_lim_seq (expected D sampled (fun x => norm2 n (x - star)%V) steps theta) 0.
Proof.
  intros Lpos Smooth Noise Convex Least Mu RM Steps.
  apply driven_to_0 with (a := steps) (mu := mu) (s := sigma2); try assumption; try lra.
  - now apply (sigma2_nonneg D n gradient sampled).
  - intros t. unfold expected. rewrite <- (E_const (draws D t) 0). apply E_le. intros. apply norm2_nonneg.
  - intros t. specialize (Steps t). lra.
  - intros t. rewrite expected_last.
    apply Rle_trans with (E (draws D t) (fun seeds =>
      (1 - steps t * mu) * norm2 n (sgd sampled steps theta seeds - star)%V + steps t ^ 2 * sigma2)).
    + apply E_le. intros seeds.
      now apply (E_strongly_convex_step D n f gradient L sampled sigma2 Lpos Smooth Noise mu star).
    + rewrite E_plus, E_scal, E_const. unfold expected. lra.
Qed.
