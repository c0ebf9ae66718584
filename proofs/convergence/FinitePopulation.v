(* The variance of a batch drawn without replacement, as an epoch of shuffled examples draws it.

   Of N examples, b <= N drawn one after another, each uniformly from those that are left, have a mean gradient whose
   expectation is that of all N, and whose variance is sigma^2/b (N - b)/(N - 1): the finite population correction.
   Source: Cochran, Sampling Techniques, 3rd ed., 1977, Theorem 2.2. *)
Require Import Reals Lra Lia Psatz List.
Import ListNotations.
From LeanMnist Require Import gradients.Numbers gradients.RealNumbers generalization.Distribution
  convergence.Vectors convergence.Variance.
Open Scope R_scope.

(* Each element of the list with the others. *)
Fixpoint picks {T} (l : list T) : list (T * list T) :=
  match l with [] => [] | a :: others => (a, others) :: map (fun p => (fst p, a :: snd p)) (picks others) end.

Lemma picks_fst {T} (l : list T) : map fst (picks l) = l.
Proof. induction l as [|a l IH]; simpl; [reflexivity|]. rewrite map_map. f_equal. exact IH. Qed.

Lemma sum_over_picks {T} (f : T -> R) l : sum_over (fun p => f (fst p)) (picks l) = sum_over f l.
Proof. rewrite <- (picks_fst l) at 2. now rewrite sum_over_map. Qed.

Lemma picks_length {T} (l : list T) : length (picks l) = length l.
Proof. rewrite <- (picks_fst l) at 2. now rewrite map_length. Qed.

Lemma others_of_pick {T} (l : list T) : forall p, In p (picks l) ->
  length l = S (length (snd p)) /\ forall f, sum_over f l = f (fst p) + sum_over f (snd p).
Proof.
  induction l as [|a l IH]; simpl; [easy|]. intros p [<-|I]; [split; reflexivity|].
  apply in_map_iff in I as (q & <- & I). destruct (IH q I) as [L Sm]. simpl. split; [now rewrite L|].
  intros f. rewrite Sm. ring.
Qed.

(* One element of a list that is not empty, each with the same probability. *)
Definition uniform {A} (first : A) (others : list A) : distribution A.
Proof.
  refine {| outcomes := map (fun a => (a, / INR (S (length others)))) (first :: others) |}.
  - intros o I. apply in_map_iff in I as (a & <- & _). cbn [snd]. left. apply Rinv_0_lt_compat, (lt_INR 0). lia.
  - rewrite sum_over_map. cbn [snd]. rewrite sum_over_const. apply Rinv_r, not_0_INR. simpl. lia.
Defined.

Lemma E_uniform {A} (first : A) others h :
  E (uniform first others) h = / INR (S (length others)) * sum_over h (first :: others).
Proof. unfold E, uniform. cbn [outcomes]. rewrite sum_over_map. cbn [fst snd]. apply sum_over_scal. Qed.

(* b draws without replacement, in order; fewer if the list is shorter *)
Fixpoint without_replacement {T} (b : nat) (l : list T) : distribution (list T) :=
  match b, l with
  | S c, a :: others =>
    compose (uniform (a, others) (map (fun p => (fst p, a :: snd p)) (picks others)))
      (fun p => compose (without_replacement c (snd p)) (fun sample => point (fst p :: sample)))
  | _, _ => point []
  end.

Lemma E_without_replacement {T} b (l : list T) h : (0 < length l)%nat ->
  E (without_replacement (S b) l) h
  = / INR (length l) * sum_over (fun p => E (without_replacement b (snd p)) (fun s => h (fst p :: s))) (picks l).
Proof.
  destruct l as [|a l]; simpl length; [lia|]. intros _. cbn [without_replacement]. rewrite E_compose, E_uniform.
  rewrite map_length, picks_length. f_equal. apply (sum_over_ext_on _ _ (picks (a :: l))). intros p _.
  rewrite E_compose. apply E_ext. intros s. apply E_point.
Qed.

Lemma without_replacement_length {T} b : forall (l : list T) sample, (b <= length l)%nat ->
  In sample (values (without_replacement b l)) -> length sample = b.
Proof.
  induction b as [|b IH]; intros l sample Le I; [destruct I as [<-|[]]; reflexivity|].
  destruct l as [|a l]; [simpl in Le; lia|]. cbn [without_replacement] in I. apply values_compose in I as (p & P & I).
  apply values_compose in I as (s & Is & [<-|[]]). simpl. f_equal. apply (IH (snd p)); [|exact Is].
  assert (In p (picks (a :: l))) as Q.
  { unfold values, uniform in P. cbn [outcomes] in P. rewrite map_map in P. cbn [fst] in P. now rewrite map_id in P. }
  destruct (others_of_pick _ p Q) as [L _]. lia.
Qed.

Section Moments.
  Context {Seed : Type} (n : nat) (v : Seed -> vec).
  Local Notation "<< u , w >>" := (inner n u w).
  Local Notation "|| w ||^2" := (norm2 n w%V) (at level 35, w at level 60).

  (* E (sum of b) = b/N (sum of all N) *)
  Lemma E_sum_without_replacement i b : forall l, (b <= length l)%nat ->
    E (without_replacement b l) (fun s => vsum v s i) = INR b / INR (length l) * vsum v l i.
  Proof.
    induction b as [|b IH]; intros l Le; [simpl; rewrite E_point; unfold vsum; simpl; lra|].
    rewrite E_without_replacement by lia. set (N := INR (length l)).
    assert (Np : 1 <= N) by (apply (le_INR 1); lia).
    rewrite (sum_over_ext_on _ (fun p => v (fst p) i + INR b / (N - 1) * (vsum v l i - v (fst p) i))).
    - rewrite (sum_over_picks (fun a => v a i + INR b / (N - 1) * (vsum v l i - v a i))).
      rewrite sum_over_plus, sum_over_scal.
      rewrite (sum_over_ext_on (fun a => vsum v l i - v a i) (fun a => vsum v l i + -1 * v a i)) by (intros; ring).
      rewrite sum_over_plus, sum_over_const, sum_over_scal. fold (vsum v l i). fold N. rewrite S_INR.
      destruct (Nat.eq_dec b 0) as [->|B].
      { simpl INR. unfold Rdiv. rewrite Rmult_0_l. field. lra. }
      assert (2 <= N) by (apply (le_INR 2); lia). field. lra.
    - intros p I. destruct (others_of_pick l p I) as [L Sm].
      change (E (without_replacement b (snd p)) (fun s => v (fst p) i + vsum v s i)
        = v (fst p) i + INR b / (N - 1) * (vsum v l i - v (fst p) i)).
      rewrite E_plus, E_const, IH by lia. f_equal.
      replace (N - 1) with (INR (length (snd p))) by (unfold N; rewrite L, S_INR; ring).
      f_equal. unfold vsum. rewrite (Sm (fun seed => v seed i)). ring.
  Qed.

  Definition squares (l : list Seed) : R := sum_over (fun seed => ||v seed||^2) l.

  Lemma vsum_of_pick l p : In p (picks l) -> vsum v l = (v (fst p) + vsum v (snd p))%V.
  Proof.
    intros I. apply FunctionalExtensionality.functional_extensionality. intros i.
    destruct (others_of_pick l p I) as [_ Sm]. apply (Sm (fun seed => v seed i)).
  Qed.

  Lemma sum_over_inner w l : sum_over (fun seed => << v seed, w >>) l = << vsum v l, w >>.
  Proof.
    induction l as [|a l IH].
    - unfold vsum, inner. simpl.
      transitivity (sum n (fun _ => 0)); [now rewrite sum_zero | apply sum_ext; intros; ring].
    - rewrite sum_over_cons, IH, <- inner_plus_l. reflexivity.
  Qed.

  (* E ||sum of b||^2 = b/N (b - 1)/(N - 1) (||sum of all||^2 - sum of ||.||^2) + b/N (sum of ||.||^2) *)
  Lemma E_norm2_without_replacement b : forall l, (b <= length l)%nat ->
    E (without_replacement b l) (fun s => ||vsum v s||^2)
    = INR b / INR (length l)
      * (squares l + (INR b - 1) / (INR (length l) - 1) * (||vsum v l||^2 - squares l)).
  Proof.
    induction b as [|b IH]; intros l Le.
    - simpl. rewrite E_point. unfold vsum, norm2, inner. simpl.
      transitivity (sum n (fun _ => 0)); [apply sum_ext; intros; ring | rewrite sum_zero; lra].
    - rewrite E_without_replacement by lia. set (N := INR (length l)).
      assert (Np : 1 <= N) by (apply (le_INR 1); lia). set (Q := ||vsum v l||^2). set (S2 := squares l).
      set (k := INR b / (N - 1)). set (j := (INR b - 1) / (N - 2)).
      set (e := k * S2 + k * j * (Q - S2)).
      set (g := fun a => (1 - 2 * k - k * (1 - 2 * j)) * ||v a||^2 + (2 * k - 2 * (k * j)) * << v a, vsum v l >> + e).
      rewrite (sum_over_ext_on _ (fun p => g (fst p))).
      + rewrite (sum_over_picks g). unfold g.
        rewrite !sum_over_plus, !sum_over_scal, sum_over_const, sum_over_inner. fold N S2.
        fold (||vsum v l||^2). fold Q. fold (squares l). fold S2.
        rewrite S_INR. unfold e. destruct (Nat.eq_dec b 0) as [->|B].
        { replace k with 0 by (unfold k; simpl INR; unfold Rdiv; ring). simpl INR. unfold Rdiv.
          replace (0 + 1 - 1) with 0 by ring. rewrite !Rmult_0_l. field. lra. }
        assert (2 <= N) by (apply (le_INR 2); lia).
        destruct (Nat.eq_dec b 1) as [->|B1].
        { replace j with 0 by (unfold j; simpl INR; unfold Rdiv; ring). unfold k. simpl INR. field. lra. }
        unfold k, j.
        assert (3 <= N) by (replace 3 with (INR 3) by (simpl; ring); apply le_INR; lia). field. lra.
      + intros p I. destruct (others_of_pick l p I) as [L Sm]. assert (V := vsum_of_pick l p I).
        set (a := v (fst p)) in *. set (rest := snd p) in *.
        assert (S2r : squares rest = S2 - ||a||^2) by (unfold S2, squares; rewrite (Sm _); unfold a; ring).
        assert (Nr : INR (length rest) = N - 1) by (unfold N; rewrite L, S_INR; ring).
        assert (Vr : vsum v rest = (vsum v l - a)%V) by (rewrite V; same_vector).
        rewrite (E_ext _ _ (fun s => ||a||^2 + 2 * << a, vsum v s >> + ||vsum v s||^2)).
        * rewrite !E_plus, E_const, E_scal, E_inner, IH by lia. rewrite S2r, Nr.
          replace (inner n a (mean (without_replacement b rest) (vsum v))) with (k * (<< a, vsum v l >> - ||a||^2)).
          -- rewrite Vr. unfold norm2. rewrite !inner_minus_l, !inner_minus_r, (inner_sym n (vsum v l) a).
             fold (norm2 n (vsum v l)). fold Q. fold k. replace (N - 1 - 1) with (N - 2) by ring. fold j.
             fold (norm2 n a). unfold g, e. fold a. ring.
          -- unfold norm2. rewrite <- inner_minus_r, <- Vr, <- inner_scal_r. apply sum_ext. intros i _. f_equal.
             unfold mean, vscal. rewrite E_sum_without_replacement by lia. now rewrite Nr.
        * intros s. change (vsum v (fst p :: s)) with (a + vsum v s)%V. unfold norm2.
          rewrite !inner_plus_l, !inner_plus_r, (inner_sym n (vsum v s) a). ring.
  Qed.
End Moments.

(* The batch's mean gradient is unbiased. *)
Theorem batch_without_replacement_unbiased {Seed} (v : Seed -> vec) l b i : (1 <= b <= length l)%nat ->
  mean (without_replacement b l) (batch_mean v) i = batch_mean v l i.
Proof.
  intros B. assert (P : 1 <= INR b) by (apply (le_INR 1); lia).
  assert (N : 1 <= INR (length l)) by (apply (le_INR 1); lia). unfold mean.
  rewrite (E_ext_on _ _ (fun s => / INR b * vsum v s i)).
  - rewrite E_scal, E_sum_without_replacement by lia. unfold batch_mean, vscal. field. lra.
  - intros s I. unfold batch_mean, vscal. now rewrite (without_replacement_length b l s ltac:(lia) I).
Qed.

(* Its variance about the gradient of all N examples is sigma^2/b (N - b)/(N - 1), sigma^2 the mean over all examples
   of ||own gradient - gradient of all||^2. *)
Theorem batch_variance_without_replacement {Seed} n (v : Seed -> vec) l b : (1 <= b <= length l)%nat ->
  (2 <= length l)%nat ->
  let all := batch_mean v l in
  let sigma2 := sum_over (fun seed => norm2 n (v seed - all)%V) l / INR (length l) in
  E (without_replacement b l) (fun s => norm2 n (batch_mean v s - all)%V)
  = sigma2 / INR b * ((INR (length l) - INR b) / (INR (length l) - 1)).
Proof.
  intros B N2 all sigma2. assert (P : 1 <= INR b) by (apply (le_INR 1); lia).
  assert (N : 2 <= INR (length l)) by (apply (le_INR 2); lia).
  set (d := fun seed => (v seed - all)%V).
  assert (Dsum : forall s, vsum d s = (vsum v s - INR (length s) * all)%V).
  { intros s. apply FunctionalExtensionality.functional_extensionality. intros i. unfold vsum, d, vminus, vscal.
    rewrite (sum_over_ext_on _ (fun seed => v seed i + - all i)) by (intros; ring).
    rewrite sum_over_plus, sum_over_const. ring. }
  rewrite (E_ext_on _ _ (fun s => (/ INR b) ^ 2 * norm2 n (vsum d s))).
  - rewrite E_scal, (E_norm2_without_replacement n d) by lia.
    assert (Zero : norm2 n (vsum d l) = 0).
    { rewrite Dsum. unfold norm2, inner. transitivity (sum n (fun _ => 0)); [|apply sum_zero]. apply sum_ext.
      intros i _. unfold vminus, vscal, all, batch_mean, vscal. field. lra. }
    rewrite Zero. unfold sigma2, squares. fold (d : Seed -> vec). unfold d. field. lra.
  - intros s I. apply without_replacement_length in I; [|lia]. rewrite Dsum, I. unfold batch_mean. rewrite I.
    replace (/ INR b * vsum v s - all)%V with (/ INR b * (vsum v s - INR b * all))%V.
    + unfold norm2. rewrite inner_scal_l, inner_scal_r. ring.
    + apply FunctionalExtensionality.functional_extensionality. intros i. unfold vminus, vscal. field. lra.
Qed.
